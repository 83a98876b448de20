package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

func TestSealedEntryOfAnotherItemOrHostDoesNotOpen(t *testing.T) {
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	blob, _ := heldAt(time.Now()).seal(s)
	if h, _, err := unseal(s, "db", blob, nil); err != nil || password(&h.Secret) != "one" {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, _, err := unseal(s, "other", blob, nil); !errors.Is(err, errTampered) {
		t.Errorf("as another item: %v", err)
	}
	if _, _, err := unseal(other, "db", blob, nil); !errors.Is(err, errTampered) {
		t.Errorf("on another host: %v", err)
	}
	for i := range blob {
		bad := append([]byte(nil), blob...)
		bad[i] ^= 1
		if _, _, err := unseal(s, "db", bad, nil); !errors.Is(err, errTampered) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
}

func TestSealedEntryFromTheFutureIsStaleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := secretSpec{TTL: time.Minute, MaxStale: time.Hour}
		b := newCacheBench(t, spec, nil, is("one"))
		blob, _ := heldAt(time.Now().Add(100 * day)).seal(b.sealer)
		again := newCacheBench(t, spec, map[string][]byte{"db": blob}, fails(upstream.Unavailable))
		if it := again.last(); !it.Stale(time.Now()) || it.UsableUntil.After(time.Now().Add(time.Hour)) {
			t.Errorf("fresh until %v, usable until %v, and it is %v", it.FreshUntil, it.UsableUntil, time.Now())
		}
	})
}
