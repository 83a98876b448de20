package agent

import (
	"crypto/rand"
	"reflect"
	"testing"
	"time"
)

// FuzzSealedEntry holds that what the decoder takes is all that there is, and
// that it is written the same again.
func FuzzSealedEntry(f *testing.F) {
	two := sealedHead{Version: "1", FetchedAt: time.Unix(1, 2), TTL: time.Hour, Fields: []sealedField{{"a", 1}, {"b", 2}}}
	f.Add(append(two.append(nil), "xyz"...))
	f.Add((&sealedHead{}).append(nil))
	for _, bad := range [][]sealedField{{{"b", 1}, {"a", 2}}, {{"a", 1}, {"a", 2}}, {{"a", -1}}, {{"", 1<<63 - 1}}} {
		f.Add(append((&sealedHead{Fields: bad}).append(nil), "xyz"...))
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		h, size, err := decodeSealed(plain)
		if err != nil {
			return
		}
		left := len(plain) - size
		for i, f := range h.Fields {
			if left -= f.Size; f.Size < 0 || i > 0 && f.Name <= h.Fields[i-1].Name {
				t.Fatalf("fields %+v", h.Fields)
			}
		}
		if left != 0 {
			t.Fatalf("%d bytes beside the values", left)
		}
		again, n, err := decodeSealed(append(h.append(nil), plain[size:]...))
		if err != nil || !reflect.DeepEqual(again, h) || n > size {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

// What does not open is not used, whatever it says of itself.
func FuzzSealedBlob(f *testing.F) {
	key := make([]byte, 32)
	rand.Read(key) // another in each process: a seed is sealed in one and opened in another
	s, err := newSealer(key)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := heldAt(time.Unix(1, 0)).seal(s, binding{})
	f.Add(good)
	f.Fuzz(func(t *testing.T, blob []byte) {
		if h, _, err := unseal(s, "db", binding{}, blob, nil); err == nil && string(blob) != string(good) {
			t.Fatalf("a blob that nobody sealed opened as %+v", h)
		}
	})
}
