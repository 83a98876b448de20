package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// keyTypes has one of each algorithm. Only ECDSA signs the same twice and
// differently.
var keyTypes = map[string]string{"rsa": "rsa-2048", "ecdsa": "ecdsa-p256", "ed": "ed25519"}

// newCertBench is an appliance whose CA issues a certificate for each type of
// key, or for the one that is named.
func newCertBench(t *testing.T, only ...string) *trustBench {
	t.Helper()
	b := newTrustBench(t, false)
	b.yaml += "certificates:\n"
	for name, typ := range keyTypes {
		if only == nil || only[0] == name {
			b.yaml += fmt.Sprintf("  %s: {issuer: cm, ca: %s, duration: 1h, dns_names: [%s.example], key: {type: %s, store: file}}\n",
				name, b.server.RootCA(), name, typ)
		}
	}
	return b
}

// cert is a certificate as the status knows it.
func (b *trustBench) cert(name string) snapshot {
	b.Helper()
	synctest.Wait()
	s := b.rotators[name].snap.Load()
	if s == nil || !s.Current.exists() {
		b.Fatalf("%s: no certificate", name)
	}
	return *s
}

// ask has an operator ask.
func (b *trustBench) ask(name string, what asked) error {
	return b.rotators[name].do(b.Context(), ask{What: what})
}

// issued are the certificates that the appliance has made.
func (b *trustBench) issued() (list []*ciphertrust.Certificate) {
	b.Helper()
	for got, err := range b.services["cm"].ciphertrust.Certificates(b.Context(), b.server.RootCA(), nil) {
		if err != nil {
			b.Fatal(err)
		}
		list = append(list, got)
	}
	return list
}

// decimalOf is the serial number as the appliance writes it.
func decimalOf(t *testing.T, v version) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(v.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// posts counts the requests for certificates.
func (b *trustBench) posts() (n int) {
	for _, e := range b.server.Log.Entries() {
		if e.Method == "POST" && strings.HasSuffix(e.Path, "/certs") {
			n++
		}
	}
	return n
}

// Whatever the type of the key: each certificate is renewed in time, by one
// request each, and an operator gets a new one or a new key when he asks.
func TestCertificatesOfEveryTypeOfKeyAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCertBench(t)
		stop := b.start()
		time.Sleep(4 * time.Hour)
		for name := range keyTypes {
			s := b.cert(name)
			if left := time.Until(s.Current.NotAfter); left < 19*time.Minute || s.Failures != 0 || s.Current.Generation != 1 {
				t.Errorf("%s: %v left, generation %d; %d failures, %s", name, left, s.Current.Generation, s.Failures, s.Error)
			}
			for _, what := range []asked{askedRenew, askedRotate, askedCompromised} {
				before := b.cert(name).Current
				if err := b.ask(name, what); err != nil {
					t.Errorf("%s: %s: %v", name, what, err)
				}
				after := b.cert(name).Current
				if serialOf(after.Chain) == serialOf(before.Chain) || (after.KeyID == before.KeyID) != (what == askedRenew) {
					t.Errorf("%s: %s: from key %s to %s", name, what, before.KeyID, after.KeyID)
				}
			}
		}
		if n := b.posts(); n < 3*(6+3) || n > 3*(9+3) { // two thirds of an hour, less up to a tenth
			t.Errorf("%d requests in 4 hours of hour-long certificates", n)
		}
		stop()
	})
}

// A bad certificate costs one try: the next asks for another one, by itself,
// when asked by an operator, and after a restart.
func TestABadCertificateIsNotAskedForAgain(t *testing.T) {
	try := func(name string, mistake ciphertrusttest.Mistake, then asked) {
		t.Run(fmt.Sprint(name, " ", mistake, " ", then), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { badCertificate(t, name, mistake, then) })
		})
	}
	for name := range keyTypes {
		for _, then := range []asked{askedNothing, askedRenew, askedRotate, askedCompromised} {
			try(name, ciphertrusttest.OtherKey, then)
		}
	}
	for _, mistake := range []ciphertrusttest.Mistake{ciphertrusttest.OtherCA, ciphertrusttest.OtherName, ciphertrusttest.Expired,
		ciphertrusttest.NotYetValid, ciphertrusttest.OtherPurpose, ciphertrusttest.Longer} {
		try("ecdsa", mistake, askedNothing)
	}
}

func badCertificate(t *testing.T, name string, mistake ciphertrusttest.Mistake, then asked) {
	b := newCertBench(t, name)
	stop := b.start()
	time.Sleep(time.Minute)
	first := b.cert(name).Current
	if err := b.server.Mistake(mistake); err != nil {
		t.Fatal(err)
	}
	if err := b.ask(name, askedRenew); err == nil || !strings.Contains(err.Error(), "refused the certificate that was issued") {
		t.Fatalf("took a certificate with the mistake %s: %v", mistake, err)
	}
	if s := b.cert(name); serialOf(s.Current.Chain) != serialOf(first.Chain) || s.Failures != 1 {
		t.Errorf("%d failures, in use %s", s.Failures, serialOf(s.Current.Chain))
	}
	if then == askedNothing {
		stop()
		stop = b.start()
		time.Sleep(time.Minute)
	} else if err := b.ask(name, then); err != nil {
		t.Errorf("%s after it: %v", then, err)
	}
	s := b.cert(name)
	if serialOf(s.Current.Chain) == serialOf(first.Chain) || s.Failures != 0 || s.Next.exists() {
		t.Errorf("in use %s, %d failures: %s", serialOf(s.Current.Chain), s.Failures, s.Error)
	}
	if rotated := then == askedRotate || then == askedCompromised; (s.Current.KeyID != first.KeyID) != rotated {
		t.Errorf("%s: from key %s to %s", then, first.KeyID, s.Current.KeyID)
	}
	if n := b.posts(); n != 3 {
		t.Errorf("%d requests, want the first, the bad one and one more", n)
	}
	for _, c := range b.issued() {
		if mine := c.SerialNumber == decimalOf(t, first); mine && (c.State == "revoked") != (then == askedCompromised) {
			t.Errorf("after %s, the certificate of before is %s", then, c.State)
		}
	}
	stop()
}

// An answer that was lost is found again after a restart, and nothing is issued
// twice.
func TestALostAnswerIsFoundAfterARestart(t *testing.T) {
	for name := range keyTypes {
		for _, what := range []asked{askedRenew, askedRotate} {
			t.Run(name+" "+string(what), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newCertBench(t, name)
					stop := b.start()
					time.Sleep(time.Minute)
					first := b.cert(name).Current
					b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Method: "POST", Path: "*/certs", Count: 1})
					// Nor is it there to be asked for before the restart.
					b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 503, Method: "GET", Path: "*/certs/*", Count: 20})
					if err := b.ask(name, what); err == nil {
						t.Error("no error without an answer")
					}
					next := b.cert(name).Next
					if !next.Sent || next.RequestID == "" {
						t.Errorf("not remembered: %+v", next)
					}
					stop()
					b.server.Faults.Clear()
					stop = b.start()
					time.Sleep(10 * time.Minute)
					s := b.cert(name)
					if serialOf(s.Current.Chain) == serialOf(first.Chain) || s.Current.RequestID != next.RequestID || s.Failures != 0 {
						t.Errorf("in use %s by request %s, want %s; %s", serialOf(s.Current.Chain), s.Current.RequestID, next.RequestID, s.Error)
					}
					if n := len(b.issued()); n != 2 {
						t.Errorf("%d certificates issued, want 2", n)
					}
					stop()
				})
			})
		}
	}
}

// What was issued and revoked before its answer came is not used.
func TestARevokedAnswerIsAskedForAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCertBench(t, "rsa")
		stop := b.start()
		time.Sleep(time.Minute)
		b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Method: "POST", Path: "*/certs", Count: 1})
		go func() { _ = b.ask("rsa", askedRenew) }() // it fails
		synctest.Wait()
		lost := b.issued()[1]
		if _, err := b.services["cm"].ciphertrust.RevokeCertificate(t.Context(), b.server.RootCA(), lost.ID, "superseded"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got, n := decimalOf(t, b.cert("rsa").Current), len(b.issued()); got == lost.SerialNumber || n != 3 {
			t.Errorf("%d certificates issued; in use is %s, and %s is revoked", n, got, lost.SerialNumber)
		}
		stop()
	})
}

// Where no credentials are needed, an operator need not wait for the first
// certificate to be tried again either.
func TestTheFirstCertificateCanBeAskedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCertBench(t, "ed")
		if err := b.server.Mistake(ciphertrusttest.OtherKey, ciphertrusttest.OtherKey); err != nil {
			t.Fatal(err)
		}
		stop := b.start()
		synctest.Wait()
		if err := b.ask("ed", askedRotate); err == nil || !strings.Contains(err.Error(), "signet renew ed") {
			t.Errorf("there is no key to replace: %v", err)
		}
		if err := b.ask("ed", askedRenew); err == nil || !strings.Contains(err.Error(), "for another key") {
			t.Errorf("took a bad certificate: %v", err)
		}
		if err := b.ask("ed", askedRenew); err != nil || b.cert("ed").Failures != 0 {
			t.Errorf("%v, %+v", err, b.cert("ed"))
		}
		stop()
	})
}

// A certificate that is in use already is no renewal, but where the issuer
// renews as it sees the need.
func TestTheSameCertificateIsNoRenewal(t *testing.T) {
	for _, asIs := range []bool{false, true} {
		t.Run(fmt.Sprint("as is: ", asIs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t, day)
				b := newBench(t, ca, newMemKeys(), nil)
				b.spec.AsIs = asIs
				stop := b.start(t)
				ca.keepTo(b.last().Chain)
				err := b.do(t.Context(), ask{What: askedRenew})
				if (err == nil) != asIs {
					t.Errorf("the same again: %v", err)
				}
				if err != nil {
					for _, want := range []string{"serial number " + serialOf(b.last().Chain), "signet rotate host"} {
						if !strings.Contains(err.Error(), want) {
							t.Errorf("%v; want %q in it", err, want)
						}
					}
					if s := b.snap.Load(); s.Failures == 0 || s.Error == "" || b.raised(eventRenewalFailed) == 0 {
						t.Errorf("%d failures, %d events, %q", s.Failures, b.raised(eventRenewalFailed), s.Error)
					}
				}
				stop()
			})
		})
	}
}

// An issuerFunc is an issuer without a proof.
type issuerFunc func(context.Context, upstream.CertificateRequest) (upstream.Issued, error)

func (f issuerFunc) Issue(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error) {
	return f(ctx, req)
}

// Whatever is sent is on disk before, under an ID of its own.
func TestARequestIsOnDiskBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, day)
		b := newBench(t, ca, newMemKeys(), nil)
		seen := map[string]bool{}
		b.issuer = issuerFunc(func(ctx context.Context, req upstream.CertificateRequest) (upstream.Issued, error) {
			var disk record
			b.read(t, &disk)
			if n := disk.Next; !n.Sent || n.RequestID != req.ID || len(req.ID) < 20 || seen[req.ID] {
				t.Errorf("sent %q; on disk is %q, sent: %v", req.ID, n.RequestID, n.Sent)
			}
			seen[req.ID] = true
			return ca.Issue(ctx, req)
		})
		stop := b.start(t)
		for _, what := range []asked{askedRenew, askedRotate} {
			if err := b.do(t.Context(), ask{What: what}); err != nil {
				t.Error(err)
			}
		}
		if len(seen) != 3 {
			t.Errorf("%d requests", len(seen))
		}
		stop()
	})
}

// What is asked for a key makes an end of what is under way where that would be
// in its way, but not where it cannot be had again.
func TestWhatIsUnderWayYieldsToANewKey(t *testing.T) {
	renew := version{KeyID: "k1", Kind: upstream.Renew, CSR: []byte{1}, Sent: true}
	issued := renew
	issued.Chain = [][]byte{{1}}
	rotate := version{KeyID: "k2", Kind: upstream.Rotate, CSR: []byte{1}}
	sent := rotate
	sent.Sent = true
	for _, tt := range []struct {
		name                                string
		next                                version
		renewal, rotation, compromise, once bool // once: compromise, where a rotation works once
	}{
		{name: "nothing"},
		{name: "renewal", next: renew, rotation: true, compromise: true, once: true},
		{name: "renewal that has its certificate", next: issued, compromise: true, once: true},
		{name: "rotation that is not sent", next: rotate, compromise: true, once: true},
		{name: "rotation that is sent", next: sent, compromise: true},
	} {
		r := record{Current: version{KeyID: "k1"}, Next: tt.next}
		got := []bool{r.yields(askedRenew, true), r.yields(askedRotate, true), r.yields(askedCompromised, true), r.yields(askedCompromised, false)}
		if want := []bool{tt.renewal, tt.rotation, tt.compromise, tt.once}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

// A key that is compromised goes at once, although another was being made in its
// place without that hurry.
func TestACompromisedKeyDoesNotOutlastARotationUnderWay(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprint("can be asked again: ", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, keys := newTestCA(t, 30*day), newMemKeys()
				b := newBench(t, ca, keys, nil)
				b.spec.Again = again
				stop := b.start(t)
				ca.mu.Lock()
				ca.lose = true
				ca.mu.Unlock()
				if err := b.do(t.Context(), ask{What: askedRotate}); err == nil {
					t.Error("no error without an answer")
				}
				if err := b.do(t.Context(), ask{What: askedCompromised}); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				rec := b.snap.Load().record
				if n, _ := keys.count(); n != 1 || len(rec.Old) != 0 || rec.Asked != askedNothing {
					t.Errorf("%d keys, %d old", n, len(rec.Old))
				}
				reqs := ca.asked()
				if last := reqs[len(reqs)-1]; !last.Compromised || last.Kind != upstream.Rotate {
					t.Errorf("last asked for: %v, compromised %v", last.Kind, last.Compromised)
				}
				stop()
			})
		})
	}
}
