package agent

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// FuzzSealedEntry holds that what the decoder takes is all that there is, and
// that what a held is sealed as comes back the same.
func FuzzSealedEntry(f *testing.F) {
	for _, meta := range []string{`{}`, `{"version":"1","fields":[{"name":"a","size":1},{"name":"b","size":2}]}`, `{"fields":[{"name":"a","size":-1}]}`, `{"fields":[{"size":9223372036854775807}]}`} {
		f.Add(append(binary.AppendUvarint(nil, uint64(len(meta))), meta+"xyz"...))
	}
	f.Add(binary.AppendUvarint(nil, 1<<63))
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		m, values, err := decodeSealed(plain)
		if err != nil {
			return
		}
		if len(values) != len(m.Fields) {
			t.Fatalf("%d values of %d fields", len(values), len(m.Fields))
		}
		h := &held{Version: m.Version, Count: m.Count, FetchedAt: m.FetchedAt, Expires: m.Expires, TTL: m.TTL, Fields: map[string]secret.Value{}}
		for i, f := range m.Fields {
			h.Fields[f.Name] = secret.New(values[i])
		}
		blob, err := h.marshal(s, "db")
		if err != nil {
			return // a time that JSON cannot write
		}
		got, err := unmarshalHeld(s, "db", blob)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Fields) != len(h.Fields) || !got.FetchedAt.Equal(h.FetchedAt) || got.TTL != h.TTL || got.Count != h.Count {
			t.Fatalf("%+v became %+v", h, got)
		}
		for k, v := range h.Fields {
			if !v.Equal(got.Fields[k]) {
				t.Fatalf("field %q changed", k)
			}
		}
	})
}

// What does not open is not used, whatever it says of itself.
func FuzzSealedBlob(f *testing.F) {
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	good, err := (&held{Version: "1", Fields: value("one"), FetchedAt: time.Unix(1, 0)}).marshal(s, "db")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, blob []byte) {
		if h, err := unmarshalHeld(s, "db", blob); err == nil && string(blob) != string(good) {
			t.Fatalf("a blob that nobody sealed opened as %+v", h)
		}
	})
}
