package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// renewed is a rotator with two certificates of one key, the newer in use.
func renewed(t *testing.T, ca *testCA, keys *memKeys) (b *bench, older, newer version, stop func()) {
	t.Helper()
	b = newBench(t, ca, keys, nil)
	b.spec.AsIs = true // as the Manager does
	stop = b.start(t)
	older = b.last()
	time.Sleep(time.Hour)
	if err := b.do(t.Context(), ask{What: askedRenew}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	newer = b.last()
	if sameChain(older.Chain, newer.Chain) || older.KeyID != newer.KeyID {
		t.Fatal("not renewed")
	}
	ca.keepTo(newer.Chain) // it sees no need for a third
	return b, older, newer, stop
}

// refuse has the rotator told that somebody was refused.
func (b *bench) refuse() {
	b.doubt()
	synctest.Wait()
}

// A newer certificate that its issuer takes no more, by word or by handshake,
// gives way to the older one, which is said; and comes back once it is taken.
func TestTheOlderCertificateIsAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, older, newer, stop := renewed(t, ca, keys)
		ca.disown(newer)
		b.refuse()
		if !sameChain(b.last().Chain, older.Chain) {
			t.Fatal("the older certificate is not in use")
		}
		var disk record
		b.read(t, &disk)
		s := b.snap.Load()
		if !sameChain(disk.Current.Chain, older.Chain) || disk.Fallback.Refused != serialOf(newer.Chain) || !strings.Contains(disk.Fallback.Why, "401") {
			t.Errorf("on disk: %+v", disk.Fallback)
		}
		if s.state(time.Now()) != stateFallback || s.Why != reasonFallback || s.usable("host", time.Now()) != nil {
			t.Errorf("state %s, due for %q", s.state(time.Now()), s.Why)
		}
		if n := b.raised(eventCertificateFallback); n != 1 {
			t.Errorf("said %d times", n)
		}
		// It is asked for again from a minute on, ever more rarely.
		before := ca.proven()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := ca.proven() - before; n < 12 || n > 40 {
			t.Errorf("tried %d times in ten hours", n)
		}
		if !sameChain(b.last().Chain, older.Chain) || b.raised(eventCertificateFallback) != 1 {
			t.Error("does not stay with the one that works")
		}
		ca.disown()
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		s = b.snap.Load()
		if v := b.last(); !sameChain(v.Chain, newer.Chain) || !v.ReceivedAt.Equal(newer.ReceivedAt) || s.state(time.Now()) != stateValid || len(s.Old) != 1 || s.Failures != 0 {
			t.Errorf("not back to the newer one: %s, %d old, %d failures", s.state(time.Now()), len(s.Old), s.Failures)
		}
		stop()
	})
}

// read reads what is on disk.
func (b *bench) read(t *testing.T, rec *record) {
	t.Helper()
	again := newBench(t, nil, nil, b.disk)
	*rec = again.rec
}

// Where the issuer would rather issue another than take the refused one again,
// that is taken.
func TestAfterAFallbackAnotherCertificateIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, older, newer, stop := renewed(t, ca, keys)
		ca.disown(newer)
		b.refuse()
		time.Sleep(3 * time.Hour)
		ca.keepTo(nil)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if v := b.last(); sameChain(v.Chain, newer.Chain) || sameChain(v.Chain, older.Chain) || b.snap.Load().state(time.Now()) != stateValid {
			t.Error("stays with the older one")
		}
		stop()
	})
}

// What is refused to the renewal itself is a reason to fall back, with nobody
// else having used the certificate.
func TestARefusedRenewalFallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, older, newer, stop := renewed(t, ca, keys)
		ca.disown(newer)
		if err := b.do(t.Context(), ask{What: askedRenew}); upstream.CodeOf(err) != upstream.Unavailable || err == nil {
			t.Errorf("renewed with a certificate that is refused: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !sameChain(b.last().Chain, older.Chain) {
			t.Error("the older certificate is not in use")
		}
		stop()
	})
}

// Only servers of the issuer that do not agree can make both look right in turn:
// the two change places ever more rarely.
func TestAFallbackDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, _, newer, stop := renewed(t, ca, keys)
		for range 24 * 60 {
			ca.disown(newer)
			b.refuse()
			ca.disown()
			time.Sleep(time.Minute)
		}
		if n := b.raised(eventCertificateFallback); n < 5 || n > 48 {
			t.Errorf("fell back %d times in a day", n)
		}
		stop()
	})
}

// A doubt costs one proof a minute and nothing else where the certificate works.
func TestADoubtIsSettledByAProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, _, newer, stop := renewed(t, ca, keys)
		time.Sleep(time.Hour)
		before, served := ca.proven(), b.count()
		for range 60 {
			b.refuse()
			time.Sleep(time.Second)
		}
		if n := ca.proven() - before; n < 1 || n > 2 {
			t.Errorf("proven %d times in a minute", n)
		}
		if b.count() != served || !sameChain(b.snap.Load().Current.Chain, newer.Chain) || b.snap.Load().Failures != 0 {
			t.Error("something has changed")
		}
		stop()
	})
}

// With nothing to fall back to, the certificate stays, and why it is of no use
// is shown until it works again. An outage is no refusal.
func TestARefusalWithoutAFallbackIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, older, newer, stop := renewed(t, ca, keys)
		ca.disown(older, newer) // as when the account is disabled
		b.refuse()
		time.Sleep(24 * time.Hour)
		s := b.snap.Load()
		if !sameChain(b.last().Chain, newer.Chain) || s.Failures < 20 || s.Failures > 60 || !strings.Contains(s.Error, "no older one that works") {
			t.Errorf("%d failures, %q", s.Failures, s.Error)
		}
		ca.disown()
		time.Sleep(2 * time.Hour)
		if s := b.snap.Load(); s.Failures != 0 || s.Error != "" || !sameChain(b.last().Chain, newer.Chain) {
			t.Errorf("%d failures, %q", s.Failures, s.Error)
		}
		ca.failProofs(&upstream.Error{Upstream: "ca", Op: "prove", Code: upstream.Unavailable})
		b.refuse()
		time.Sleep(time.Hour)
		if !sameChain(b.last().Chain, newer.Chain) || b.raised(eventCertificateFallback) != 0 {
			t.Error("an outage is taken for a refusal")
		}
		stop()
	})
}

// What a rotation has revoked is not used again, whether the issuer would take
// it or not; nor is any certificate of a key that is compromised.
func TestThereIsNoFallbackAcrossARotation(t *testing.T) {
	for _, what := range []asked{askedRotate, askedCompromised} {
		t.Run(string(what), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 90*day), newMemKeys()
				b, _, _, stop := renewed(t, ca, keys)
				if err := b.do(t.Context(), ask{What: what}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				rotated := b.last()
				ca.disown(rotated)
				b.refuse()
				time.Sleep(time.Hour)
				if !sameChain(b.last().Chain, rotated.Chain) {
					t.Error("back to a key that was replaced")
				}
				stop()
			})
		})
	}
	t.Run("under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, keys := newTestCA(t, 90*day), newMemKeys()
			b, _, newer, stop := renewed(t, ca, keys)
			ca.disown(newer)
			if err := b.do(t.Context(), ask{What: askedCompromised}); err == nil {
				t.Error("rotated with a certificate that is refused")
			}
			time.Sleep(time.Hour)
			if !sameChain(b.last().Chain, newer.Chain) {
				t.Error("a certificate of a key that is known to others was taken up")
			}
			stop()
		})
	})
}

// The certificates that a renewal has left behind do not keep the old key: with
// the grace time, or at once if it is compromised, it goes and they with it.
func TestNoOldCertificateKeepsAnOldKey(t *testing.T) {
	for what, want := range map[asked]int{askedRotate: 2, askedCompromised: 1} {
		t.Run(string(what), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 90*day), newMemKeys()
				b, _, _, stop := renewed(t, ca, keys)
				if err := b.do(t.Context(), ask{What: what}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if n, _ := keys.count(); n != want {
					t.Errorf("%d keys at once, want %d", n, want)
				}
				time.Sleep(2 * time.Hour)
				if n, _ := keys.count(); n != 1 || len(b.snap.Load().Old) != 0 {
					t.Errorf("%d keys and %d old certificates after the grace time", n, len(b.snap.Load().Old))
				}
				stop()
			})
		})
	}
}

// A rotation that could not be sent goes on from the older certificate, with a
// key of its own.
func TestARotationGoesOnFromTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b, _, newer, stop := renewed(t, ca, keys)
		ca.disown(newer)
		if err := b.do(t.Context(), ask{What: askedRotate}); err == nil {
			t.Error("rotated with a certificate that is refused")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if v := b.last(); v.KeyID == newer.KeyID || b.snap.Load().state(time.Now()) != stateValid {
			t.Errorf("key %s, state %s", v.KeyID, b.snap.Load().state(time.Now()))
		}
		if n, _ := keys.count(); n != 1 {
			t.Errorf("%d keys, want the one in use", n)
		}
		stop()
	})
}

// Stopped dead between any step of a fallback and its writing down, and at any
// step of the way back: after a start one of the two is in use, and in the end
// the newer one.
func TestCrashAmidAFallback(t *testing.T) {
	for crash := 1; crash <= 8; crash++ {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 90*day), newMemKeys()
				b, older, newer, stop := renewed(t, ca, keys)
				stop()
				ca.disown(newer)
				b2, saves := newBench(t, ca, keys, b.disk), 0
				b2.save = func(rec record) error {
					if saves++; saves >= crash {
						b2.stop()
						return errors.New("power cut")
					}
					return b2.write(rec)
				}
				b2.doubt()
				_ = b2.during(t, 5*time.Minute)
				b3 := newBench(t, ca, keys, b2.disk)
				b3.spec.AsIs = true
				halt := b3.start(t)
				b3.refuse()
				time.Sleep(time.Minute)
				if !sameChain(b3.last().Chain, older.Chain) {
					t.Error("the older certificate is not in use")
				}
				ca.disown()
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if v := b3.last(); !sameChain(v.Chain, newer.Chain) {
					t.Error("not back to the newer one")
				}
				halt()
			})
		})
	}
}

// A renewed certificate that is refused from the start is asked for again, with
// the back-off of its proofs: not every answer begins a new row of them.
func TestARefusedRenewalIsAskedForAgainSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		stop := b.start(t)
		first := b.last()
		ca.failProofs(&upstream.Error{Upstream: "ca", Op: "prove", Code: upstream.Unavailable, Status: 401})
		if err := b.do(t.Context(), ask{What: askedRenew}); err == nil {
			t.Error("no error")
		}
		time.Sleep(10 * time.Hour)
		if n := len(ca.asked()); n < 10 || n > 35 || !sameChain(b.last().Chain, first.Chain) {
			t.Errorf("asked %d times in ten hours", n)
		}
		stop()
	})
}

// A certificate that is of no use any more, with no older one, does not keep its
// successor waiting: that is used as soon as it can be proven.
func TestADoubtDoesNotStandInTheWayOfARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 90*day), newMemKeys()
		b := newBench(t, ca, keys, nil)
		stop := b.start(t)
		first := b.last()
		ca.failProofs(&upstream.Error{Upstream: "ca", Op: "prove", Code: upstream.Unavailable})
		time.Sleep(day)
		if err := b.do(t.Context(), ask{What: askedRenew}); err == nil {
			t.Error("not proven, and no error")
		}
		time.Sleep(time.Hour)
		ca.disown(first)
		b.refuse()
		time.Sleep(time.Hour)
		ca.failProofs(nil)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if s := b.snap.Load(); sameChain(b.last().Chain, first.Chain) || s.Failures != 0 {
			t.Errorf("not renewed: %s, %q", s.Step, s.Error)
		}
		stop()
	})
}
