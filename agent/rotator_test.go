package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// A bench is a rotator with everything it needs, and what it did.
type bench struct {
	*rotator
	mu     sync.Mutex
	disk   []byte // the record as last saved
	stop   func() // ends the run under way
	served []version
	events []event
}

func newBench(t *testing.T, ca *testCA, keys *memKeys, disk []byte) *bench {
	t.Helper()
	b := &bench{disk: disk}
	b.rotator = &rotator{
		name: "host", host: "host1.example", keys: keys, issuer: ca,
		spec: certificateSpec{Subject: pkix.Name{CommonName: "host1.example"}, Usage: x509.ExtKeyUsageClientAuth, Grace: time.Hour},
		publish: func(_ context.Context, v version) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.served = append(b.served, v)
			return nil
		},
		log: slog.New(slog.DiscardHandler), emit: func(e event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
		asks: make(chan ask), wake: make(chan struct{}, 1), doubts: make(chan struct{}, 1), clock: wall,
	}
	b.save = b.write
	if disk != nil {
		if err := json.Unmarshal(disk, &b.rec); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) write(rec record) error {
	blob, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disk = blob
	return nil
}

// during runs the rotator for d and returns what it ended with.
func (b *bench) during(t *testing.T, d time.Duration) error {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	b.stop = stop
	return b.run(ctx)
}

func (b *bench) last() version {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.served) == 0 {
		return version{}
	}
	return b.served[len(b.served)-1]
}

func TestRotatorRenewsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 24*time.Hour), newMemKeys()
		b := newBench(t, ca, keys, nil)
		if err := b.during(t, 10*24*time.Hour); err != nil {
			t.Fatal(err)
		}
		if n := len(ca.asked()); n < 14 || n > 18 { // two thirds of a day, less up to a tenth
			t.Errorf("%d requests in 10 days of day-long certificates", n)
		}
		if left := time.Until(b.last().NotAfter); left < 8*time.Hour-time.Minute {
			t.Errorf("served certificate has %v left, want at least a third of its day", left)
		}
		if len(keys.keys) != 1 {
			t.Errorf("%d keys; renewing keeps the key", len(keys.keys))
		}
	})
}

func TestRotatorRidesOutAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys, start := newTestCA(t, 90*24*time.Hour), newMemKeys(), time.Now()
		var refused int
		ca.down = func() error {
			if d := time.Since(start); d > 50*day && d < 85*day {
				refused++
				return &upstream.Error{Upstream: "ca", Op: "renew", Code: upstream.Unavailable}
			}
			return nil
		}
		b := newBench(t, ca, keys, nil)
		if err := b.during(t, 85*24*time.Hour+2*time.Hour); err != nil {
			t.Fatal(err)
		}
		if n := len(ca.asked()); n != 2 {
			t.Errorf("%d certificates issued, want the first and one renewal right after the outage", n)
		}
		// From a second doubling to an hour: no more than one try per step.
		if most := int((85*day-54*day)/(30*time.Minute)) + 13; refused > most || refused < 500 {
			t.Errorf("%d tries in the outage, want at most %d, and not few", refused, most)
		}
	})
}

func TestRotateKeepsTheOldKeyThroughTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 30*24*time.Hour), newMemKeys()
		b := newBench(t, ca, keys, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.run(ctx) }()
		synctest.Wait()
		if err := b.do(t.Context(), ask{What: askedRotate}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n, _ := keys.count(); n != 2 {
			t.Errorf("%d keys within the grace time, want both", n)
		}
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if n, retired := keys.count(); n != 1 || retired != 1 {
			t.Errorf("%d keys, %d retired after the grace time", n, retired)
		}
		if err := b.do(t.Context(), ask{What: askedCompromised}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n, retired := keys.count(); n != 1 || retired != 2 {
			t.Errorf("%d keys, %d retired after a compromise: the old one must go at once", n, retired)
		}
		reqs := ca.asked()
		if last := reqs[len(reqs)-1]; last.Kind != upstream.Rotate || !last.Compromised || last.Current == nil {
			t.Errorf("last request %+v", last.Kind)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnprovenCertificateIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 24*time.Hour), newMemKeys()
		b := newBench(t, ca, keys, nil)
		if err := b.during(t, time.Hour); err != nil {
			t.Fatal(err)
		}
		first := b.last()
		ca.failProofs(errors.New("401"))
		b2 := newBench(t, ca, keys, b.disk)
		if err := b2.during(t, 20*time.Hour); err != nil {
			t.Fatal(err)
		}
		if !sameChain(b2.last().Chain, first.Chain) {
			t.Error("a certificate that did not work was published")
		}
		ca.failProofs(nil)
		b3 := newBench(t, ca, keys, b2.disk)
		if err := b3.during(t, time.Hour); err != nil {
			t.Fatal(err)
		}
		if sameChain(b3.last().Chain, first.Chain) {
			t.Error("the renewed certificate was not published once it worked")
		}
	})
}

func TestWrongCertificateIsRefusedAndTheOldStays(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*x509.Certificate){
		"other key":          func(c *x509.Certificate) { c.PublicKey = other.Public() },
		"expired":            func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"not yet valid":      func(c *x509.Certificate) { c.NotBefore = time.Now().Add(23 * time.Hour) },
		"no clientAuth":      func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"longer than asked":  func(c *x509.Certificate) { c.NotAfter = time.Now().Add(48 * time.Hour) },
		"other name":         func(c *x509.Certificate) { c.Subject.CommonName = "evil.example" },
		"a CA's certificate": func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 24*time.Hour), newMemKeys()
				b := newBench(t, ca, keys, nil)
				b.spec.Options.Duration = 24 * time.Hour
				if err := b.during(t, time.Hour); err != nil {
					t.Fatal(err)
				}
				ca.change = change
				b2 := newBench(t, ca, keys, b.disk)
				b2.spec.Options.Duration = 24 * time.Hour
				if err := b2.during(t, 20*time.Hour); err != nil {
					t.Fatal(err)
				}
				if len(b2.served) != 1 || !sameChain(b2.last().Chain, b.last().Chain) {
					t.Errorf("served %d times; the old certificate must stay", len(b2.served))
				}
				if b2.rec.Error == "" || b2.rec.Failures == 0 {
					t.Error("the refusal does not show")
				}
			})
		})
	}
}

// Stops dead between every step and its writing down, then starts again from
// what is on disk: a usable certificate, no second registration, no lost key.
func TestCrashBetweenAnyStepAndItsRecord(t *testing.T) {
	crashed := true
	for crash := 1; crashed; crash++ {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 24*time.Hour), newMemKeys()
				b := newBench(t, ca, keys, nil)
				b.spec.RotateEvery = 2 * 24 * time.Hour
				saves := 0
				b.save = func(rec record) error {
					if saves++; saves >= crash {
						b.stop()
						return errors.New("power cut")
					}
					return b.write(rec)
				}
				if _ = b.during(t, 3*24*time.Hour); saves < crash {
					crashed = false // three days take no more saves: every one was a crash once
					return
				}
				b2 := newBench(t, ca, keys, b.disk)
				b2.spec.RotateEvery = 2 * 24 * time.Hour
				if err := b2.during(t, 2*24*time.Hour+3*time.Hour); err != nil {
					t.Fatal(err)
				}
				if b2.rec.Lost != "" {
					// A registration whose answer was not written down cannot be had again;
					// what must be done is said, and nothing was repeated blindly.
					if ca.registered > 2 {
						t.Errorf("registered %d times", ca.registered)
					}
					return
				}
				if !time.Now().Before(b2.last().NotAfter) {
					t.Errorf("served certificate ended at %v", b2.last().NotAfter)
				}
				// The current key, and one in its grace.
				if len(keys.keys) > 2 {
					t.Errorf("%d keys left", len(keys.keys))
				}
			})
		})
	}
}

func TestLostRegistrationSaysWhatToDoAndAsksNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, keys := newTestCA(t, 24*time.Hour), newMemKeys()
		ca.lose = true
		b := newBench(t, ca, keys, nil)
		if err := b.during(t, 100*time.Hour); err != nil {
			t.Fatal(err)
		}
		if n := len(ca.asked()); n != 2 {
			t.Errorf("asked %d times; the second finds out, and then no more", n)
		}
		if b.rec.Lost == "" || !ca.asked()[1].Uncertain {
			t.Errorf("lost: %q", b.rec.Lost)
		}
	})
}

// What an issuer asks for is kept to, whatever has come meanwhile; other
// back-offs are over then.
func TestAWakeKeepsToWhatTheIssuerAsksFor(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want time.Duration // of the next try after the wake
	}{
		"asked for half an hour": {&upstream.Error{Upstream: "ca", Op: "issue", Code: upstream.Busy, RetryAfter: 30 * time.Minute}, 29 * time.Minute},
		"asked for half an hour with a token": {&upstream.NoToken{Err: &upstream.Error{Upstream: "ca", Op: "get token", Code: upstream.Unavailable,
			RetryAfter: 30 * time.Minute}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t, 90*day)
				ca.fail(func() error { return tt.err })
				b := newBench(t, ca, newMemKeys(), nil)
				stop := b.start(t)
				defer stop()
				ca.fail(nil)
				time.Sleep(time.Minute)
				woken := time.Now()
				for range 5 {
					b.poke()
					synctest.Wait()
				}
				time.Sleep(time.Hour)
				if got := b.last().ReceivedAt.Sub(woken); got != tt.want {
					t.Errorf("tried %v after the wake, want %v", got, tt.want)
				}
			})
		})
	}
}
