package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

func newBox(t testing.TB) *Box {
	t.Helper()
	b, err := NewBox(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBoxOpensWhatItSealedAsTheSame(t *testing.T) {
	b := newBox(t)
	blob := b.Seal(nil, []byte("value"), []byte("a"))
	if got, err := b.Open([]byte("head "), blob, []byte("a")); err != nil || string(got) != "head value" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.Open(nil, blob, []byte("b")); !errors.Is(err, ErrSealed) {
		t.Errorf("as another item: %v", err)
	}
	for n := range len(blob) {
		if _, err := b.Open(nil, blob[:n], []byte("a")); !errors.Is(err, ErrSealed) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if bytes.Equal(blob, b.Seal(nil, []byte("value"), []byte("a"))) {
		t.Error("a nonce was used twice")
	}
}

// Blobs of releases that used the standard library's random nonces open.
func TestBoxReadsTheStandardForm(t *testing.T) {
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := newBox(t).Open(nil, aead.Seal(nil, nil, []byte("value"), []byte("a")), []byte("a")); err != nil || string(got) != "value" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPartsAreOpenedInPlace(t *testing.T) {
	b := newBox(t)
	kept := b.Keep(b.Seal(nil, []byte("head value tail"), []byte("a")), []byte("a"))
	for _, tt := range []struct {
		from, size int
		want       string
	}{{5, 5, "value"}, {0, 4, "head"}, {11, 4, "tail"}, {0, 15, "head value tail"}, {3, 0, ""}, {11, 5, ""}} {
		v := kept.Part(tt.from, tt.size)
		buf := make([]byte, 5, 5+v.Room())
		got := v.AppendTo(buf)
		if string(got[5:]) != tt.want || &got[0] != &buf[0] {
			t.Errorf("%q, want %q", got[5:], tt.want)
		}
		if rest := got[len(got):cap(got)]; !bytes.Equal(rest, make([]byte, len(rest))) && tt.want != "" {
			t.Errorf("beside %q there is %q left", tt.want, rest)
		}
	}
	v := kept.Part(5, 5)
	buf := make([]byte, 5, 64)
	if n := testing.AllocsPerRun(100, func() { v.AppendTo(buf) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var used []byte
	v.Use(func(b []byte) {
		if string(b) != "value" {
			t.Errorf("%q", b)
		}
		used = b
	})
	if !bytes.Equal(used[:cap(used)], make([]byte, cap(used))) {
		t.Errorf("the copy was not wiped: %q", used[:cap(used)])
	}
	if !v.Equal(New([]byte("value"))) || v.Equal(New([]byte("other"))) {
		t.Error("compared wrongly")
	}
	if other := b.Keep(b.Seal(nil, []byte("head value tail"), []byte("a")), []byte("b")).Part(5, 5); len(other.Reveal()) != 0 {
		t.Error("opened as another item")
	}
}

// The key lies in memory that is not swapped, not dumped and, with memfd_secret,
// that not even root can read.
func TestKeyLiesInLockedMemory(t *testing.T) {
	b := newBox(t)
	t.Log(b.Memory())
	if b.Memory() == Heap {
		t.Fatal("the key is on the heap: the library's cipher has changed, or mlock is forbidden")
	}
	at := fmt.Sprintf("%p", b.aead)
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	flags := flagsOf(t, string(smaps), at)
	if !strings.Contains(flags, " lo") || !strings.Contains(flags, " dd") {
		t.Errorf("flags of its memory: %s; want lo (locked) and dd (not dumped)", flags)
	}
	if b.Memory() == MemfdSecret {
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			t.Skip(err)
		}
		defer mem.Close()
		addr, _ := strconv.ParseInt(at, 0, 64)
		if n, err := mem.ReadAt(make([]byte, 16), addr); err == nil {
			t.Errorf("%d bytes of it can be read through /proc", n)
		}
	}
}

// The key can be had again, to be wrapped anew, and lies beside the cipher.
func TestKeyCanBeHadAgain(t *testing.T) {
	key := bytes.Repeat([]byte{9}, 32)
	b, err := NewBox(key)
	if err != nil {
		t.Fatal(err)
	}
	clear(key) // as the caller does
	var copied []byte
	b.Key().Use(func(k []byte) {
		if !bytes.Equal(k, bytes.Repeat([]byte{9}, 32)) {
			t.Errorf("%x", k)
		}
		copied = k
	})
	if !bytes.Equal(copied, make([]byte, 32)) {
		t.Error("the copy was not wiped")
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	if flags := flagsOf(t, string(smaps), fmt.Sprintf("%p", b.key)); !strings.Contains(flags, " lo") || !strings.Contains(flags, " dd") {
		t.Errorf("flags of its memory: %s; want lo (locked) and dd (not dumped)", flags)
	}
}

// flagsOf finds the flags of the mapping that an address is in.
func flagsOf(t *testing.T, smaps, at string) string {
	t.Helper()
	addr, err := strconv.ParseUint(at, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(smaps) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= addr && addr < to
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatalf("no mapping at %s", at)
	return ""
}

func BenchmarkOpen1KiB(b *testing.B) {
	box := newBox(b)
	of := []byte("secret db")
	v := box.Keep(box.Seal(nil, make([]byte, 1100), of), of).Part(76, 1024)
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		v.AppendTo(buf)
	}
}
