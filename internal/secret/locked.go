package secret

import (
	"bytes"
	"crypto/cipher"
	"reflect"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where a key can lie.
const (
	// MemfdSecret is memory that the kernel itself has no mapping of: not
	// swapped, not dumped, not read by ptrace or through /proc/PID/mem, by root
	// neither.
	MemfdSecret = "memfd_secret"
	// Mlock is memory that is not swapped and left out of core dumps.
	Mlock = "mlock"
	// Heap is memory like any other.
	Heap = "heap"
)

// lock maps size bytes of the best memory that there is, or returns nil.
func lock(size int) (mem []byte, how string) {
	size = (size + unix.Getpagesize() - 1) &^ (unix.Getpagesize() - 1)
	if mem := secretMemory(size); mem != nil {
		return mem, MemfdSecret
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, Heap
	}
	if unix.Mlock(mem) != nil || unix.Madvise(mem, unix.MADV_DONTDUMP) != nil || unix.Madvise(mem, unix.MADV_DONTFORK) != nil {
		_ = unix.Munmap(mem) // nothing is in it
		return nil, Heap
	}
	return mem, Mlock
}

// secretMemory is memory of memfd_secret, or nil.
func secretMemory(size int) []byte {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if unix.Ftruncate(fd, int64(size)) != nil {
		return nil
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	if unix.Madvise(mem, unix.MADV_DONTFORK) != nil {
		_ = unix.Munmap(mem)
		return nil
	}
	return mem
}

// moved is the cipher with its state in locked memory, which is never given
// back, and behind it there a copy of the key. The library offers no way to say where the expanded key goes, so its
// object is copied there whole; that is sound because it holds no pointers.
// Where it should ever hold some, the cipher stays where it is.
func moved(aead cipher.AEAD, key []byte) (cipher.AEAD, []byte, string) {
	v := reflect.ValueOf(aead)
	if v.Kind() != reflect.Pointer || pointers(v.Type().Elem()) {
		return aead, bytes.Clone(key), Heap
	}
	t := v.Type().Elem()
	mem, how := lock(int(t.Size()) + len(key))
	if mem == nil {
		return aead, bytes.Clone(key), Heap
	}
	at := reflect.NewAt(t, unsafe.Pointer(unsafe.SliceData(mem)))
	copy(mem, bytesOf(v))
	locked, ok := at.Interface().(cipher.AEAD)
	if !ok { // it is of the type that it was copied from
		return aead, bytes.Clone(key), Heap
	}
	kept := mem[t.Size():][:len(key)]
	copy(kept, key)
	return locked, kept, how
}

// wipe clears the object behind a pointer that holds none itself.
func wipe(object any) {
	if v := reflect.ValueOf(object); v.Kind() == reflect.Pointer && !pointers(v.Type().Elem()) {
		clear(bytesOf(v))
	}
}

// bytesOf is the memory of the object that v points to.
func bytesOf(v reflect.Value) []byte {
	return unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size())
}

// pointers reports whether the garbage collector would have to look into a t.
func pointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointers(t.Elem())
	case reflect.Struct:
		for f := range t.NumField() {
			if pointers(t.Field(f).Type) {
				return true
			}
		}
		return false
	}
	return t.Kind() < reflect.Bool || t.Kind() > reflect.Complex128
}
