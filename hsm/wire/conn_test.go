package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/hsm/wire"
)

// TestFramesArriveWhole holds that frames sent by many at once arrive whole, each
// once.
func TestFramesArriveWhole(t *testing.T) {
	a, b := net.Pipe()
	from, to := wire.NewConn(a), wire.NewConn(b)
	const senders, each = 8, 100
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				id := uint64(s*each + i)
				if err := from.Send(id, wire.OpSign, bytes.Repeat([]byte{byte(id)}, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[uint64]bool{}
	for range senders * each {
		f, err := to.Receive()
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte{byte(f.ID)}, int(f.ID)%each)
		if seen[f.ID] || f.Op != wire.OpSign || !bytes.Equal(f.Payload, want) {
			t.Errorf("frame %d: %v, %d bytes", f.ID, f.Op, len(f.Payload))
		}
		seen[f.ID] = true
	}
	wg.Wait()
	a.Close()
	if _, err := to.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

// TestSignRoundTrip holds that the packed form of a request is read as it was
// written, and that anything shorter is refused.
func TestSignRoundTrip(t *testing.T) {
	want := wire.Sign{ID: []byte{1, 2, 3}, Scheme: wire.SchemeECDSA, Data: []byte("digest")}
	b := append(want.Head(), want.Data...)
	got, err := wire.ParseSign(b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for i := range 5 {
		if _, err := wire.ParseSign(b[:i]); !errors.Is(err, wire.ErrFrame) {
			t.Errorf("%d bytes: %v, want ErrFrame", i, err)
		}
	}
}

// FuzzReceive holds that no bytes on the line panic or make up long frames.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 4})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := wire.NewConn(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
		for {
			frame, err := c.Receive()
			if err != nil {
				return
			}
			if len(frame.Payload) > len(b) {
				t.Errorf("%d bytes out of %d", len(frame.Payload), len(b))
			}
			_, _ = wire.ParseSign(frame.Payload)
		}
	})
}
