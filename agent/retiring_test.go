package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
)

// TestReplacedKeysAreRetiring holds that the ledger calls a key retiring from when its
// successor's certificate is published until it is destroyed, and none before, whenever
// the agent is stopped in between.
func TestReplacedKeysAreRetiring(t *testing.T) {
	crashed := true
	for crash := 1; crashed; crash++ {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 30*24*time.Hour), newMemKeys()
				b := newBench(t, ca, keys, nil)
				if err := b.during(t, time.Hour); err != nil {
					t.Fatal(err)
				}
				if ids := keys.retiring(); len(ids) > 0 {
					t.Errorf("retiring before a rotation: %q", ids)
				}
				b = newBench(t, ca, keys, b.disk)
				b.rec.Asked = askedRotate
				saves, write := 0, b.save
				b.save = func(rec record) error {
					if saves++; saves >= crash {
						b.stop()
						return errors.New("crash")
					}
					return write(rec)
				}
				_ = b.during(t, 10*time.Minute)
				crashed = saves >= crash

				b = newBench(t, ca, keys, b.disk)
				if b.rec.Current.KeyID == "k1" && b.rec.Asked == askedNothing && !b.rec.Next.exists() {
					b.rec.Asked = askedRotate // it was lost with the first save
				}
				if err := b.during(t, 10*time.Minute); err != nil {
					t.Fatal(err)
				}
				if ids := keys.retiring(); !slices.Equal(ids, []string{"k1"}) {
					t.Errorf("retiring within the grace time: %q, want k1", ids)
				}
				b = newBench(t, ca, keys, b.disk)
				if err := b.during(t, 2*time.Hour); err != nil {
					t.Fatal(err)
				}
				if n, retired := keys.count(); n != 1 || retired != 1 || len(keys.retiring()) > 0 {
					t.Errorf("after it: %d keys, %d retired, %q retiring", n, retired, keys.retiring())
				}
			})
		})
	}
}

// TestReplacedBeforeThisWasKnown holds that a key which was replaced before the ledger
// was told of such is called retiring at the next start.
func TestReplacedBeforeThisWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 30*24*time.Hour), newMemKeys()
		b := newBench(t, ca, keys, nil)
		if err := b.during(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		b = newBench(t, ca, keys, b.disk)
		b.rec.Asked = askedRotate
		if err := b.during(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		clear(keys.replaced)
		b = newBench(t, ca, keys, b.disk)
		if err := b.during(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		if ids := keys.retiring(); !slices.Equal(ids, []string{"k1"}) {
			t.Errorf("retiring: %q, want k1", ids)
		}
	})
}

// TestReplacedKeysOnAToken holds that a key in use moves on, and that others stay as
// they are.
func TestReplacedKeysOnAToken(t *testing.T) {
	book := &hsmtest.Ledger{}
	for i, state := range []hsm.State{hsm.Live, hsm.Retiring, hsm.Intended, hsm.Retired, hsm.Destroyed} {
		if err := book.SaveKey(hsm.LedgerKey{ID: fmt.Sprint("0", i), Token: "main", Name: "host", Generation: i + 1, Type: hsm.ECDSAP256, State: state}); err != nil {
			t.Fatal(err)
		}
	}
	keys := &tokenKeys{token: hsm.New(hsm.Config{Name: "main", Ledger: book})}
	var got []hsm.State
	for i := range 5 {
		if err := keys.Replaced(fmt.Sprint("0", i)); err != nil {
			t.Error(err)
		}
	}
	for _, k := range keys.token.Keys() {
		got = append(got, k.State)
	}
	if want := []hsm.State{hsm.Retiring, hsm.Retiring, hsm.Intended, hsm.Retired, hsm.Destroyed}; !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
}
