package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
)

// A Box seals with AES-256-GCM. The key, and all that is derived from it, lies in
// locked memory; see [Box.Memory]. Its methods may be called from several
// goroutines.
type Box struct {
	aead   cipher.AEAD
	key    []byte // in the same memory
	memory string
}

// nonceSize is that of GCM. Nonces are random: a key must not seal more than
// 2^32 times.
const nonceSize = 12

// ErrSealed is all that can be known of a blob that does not open.
var ErrSealed = errors.New("was changed, belongs to another item, or was sealed on another host")

// NewBox makes a Box. The caller wipes the key.
func NewBox(key []byte) (*Box, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("key: %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	locked, kept, memory := moved(aead, key)
	if memory != Heap {
		wipe(block)
		wipe(aead)
	}
	return &Box{locked, kept, memory}, nil
}

// Memory says where the key lies: MemfdSecret, Mlock, or Heap where neither can
// be had.
func (b *Box) Memory() string { return b.memory }

// Key is the key, for who has it wrapped anew. Each use copies it out.
func (b *Box) Key() Value {
	return Value{lazy: true, room: uint32(len(b.key)), appendTo: func(dst []byte) []byte { return append(dst, b.key...) }}
}

// Seal appends plain to dst, sealed as what of says.
func (b *Box) Seal(dst, plain, of []byte) []byte {
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	return b.aead.Seal(append(dst, nonce[:]...), nonce[:], plain, of)
}

// Open appends to dst what Seal sealed as the same.
func (b *Box) Open(dst, blob, of []byte) ([]byte, error) {
	if len(blob) < nonceSize {
		return nil, ErrSealed
	}
	plain, err := b.aead.Open(dst, blob[:nonceSize], blob[nonceSize:], of)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// A Kept is a sealed blob that is kept as it is and opened at each use.
type Kept struct {
	box  *Box
	data []byte // the blob, and behind it what it is of
	blob int    // its length
}

// Keep keeps a copy of what Seal sealed as the same. Of many that were read one
// after the other the copies lie side by side; the blobs lie among what reading
// them has left.
func (b *Box) Keep(blob, of []byte) Kept { return Kept{b, slices.Concat(blob, of), len(blob)} }

// Part is size bytes of what is sealed, the first of them at from. What else
// there is goes through the same buffer and is wiped.
func (k Kept) Part(from, size int) Value {
	return Value{lazy: true, room: uint32(k.blob), appendTo: func(dst []byte) []byte {
		plain, err := k.box.Open(dst, k.data[:k.blob], k.data[k.blob:])
		if err != nil || from+size > len(plain)-len(dst) {
			return dst // memory was changed under us; an empty value is never delivered
		}
		end := len(dst) + size
		copy(plain[len(dst):end], plain[len(dst)+from:])
		clear(plain[end:])
		return plain[:end]
	}}
}
