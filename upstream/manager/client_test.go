package manager_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/manager"
	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// keys are made once, because RSA keys take their time.
var keys = sync.OnceValue(func() [3]*rsa.PrivateKey {
	var list [3]*rsa.PrivateKey
	for i := range list {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		list[i] = key
	}
	return list
})

var ca = sync.OnceValue(func() *upstreamtest.CA {
	ca, err := managertest.NewCA()
	if err != nil {
		panic(err)
	}
	return ca
})

// bed is a Manager with one private account, and the client of it.
type bed struct {
	*testing.T
	sim     *managertest.Server
	client  *manager.Client
	http    *upstream.HTTP
	account int64
	shown   atomic.Pointer[tls.Certificate] // by http
	log     strings.Builder
}

func newBed(t *testing.T) *bed {
	b := &bed{T: t}
	sim, url := managertest.Start(t, managertest.Config{CA: ca()})
	b.sim = sim
	id, err := sim.CreatePrivateAccount("host1", "temp", "one-time-1")
	if err != nil {
		t.Fatal(err)
	}
	b.account = id
	b.http, err = upstream.NewHTTP(upstream.HTTPConfig{
		Name: "vaults", URL: url, CAs: sim.CA.Pool(),
		Certificate: func(context.Context) (*tls.Certificate, error) { return b.shown.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.http.Reset)
	b.client = manager.New(manager.Config{HTTP: b.http, AccountID: id, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	return b
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (b *bed) csr(key crypto.Signer) []byte {
	b.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "host1.example"}}, key)
	if err != nil {
		b.Fatal(err)
	}
	return der
}

func (b *bed) registration() upstream.CertificateRequest {
	return upstream.CertificateRequest{
		Kind: upstream.Register, CSR: b.csr(keys()[0]), Username: "temp", Password: secret.New([]byte("one-time-1")),
	}
}

func (b *bed) rotation(current *tls.Certificate) upstream.CertificateRequest {
	return upstream.CertificateRequest{Kind: upstream.Rotate, CSR: b.csr(keys()[1]), Current: current}
}

// issue makes the call, which has to work, and puts the key to the answer.
func (b *bed) issue(r upstream.CertificateRequest, key crypto.Signer) *tls.Certificate {
	b.Helper()
	issued, err := b.client.Issue(b.Context(), r)
	if err != nil {
		b.Fatalf("%v (remedy: %s)", err, err.(*upstream.Error).Hint())
	}
	leaf, err := x509.ParseCertificate(issued.Chain[0])
	if err != nil {
		b.Fatal(err)
	}
	if !leaf.PublicKey.(*rsa.PublicKey).Equal(key.Public()) {
		b.Fatal("the certificate is for another key")
	}
	return &tls.Certificate{Certificate: issued.Chain, PrivateKey: key, Leaf: leaf}
}

// fails makes the call, which has to fail with the code.
func (b *bed) fails(r upstream.CertificateRequest, want upstream.Code) *upstream.Error {
	b.Helper()
	_, err := b.client.Issue(b.Context(), r)
	return b.failed(err, want)
}

func (b *bed) failed(err error, want upstream.Code) *upstream.Error {
	b.Helper()
	e, ok := err.(*upstream.Error)
	if !ok || e.Code != want {
		b.Fatalf("error %v, want one of code %s", err, want)
	}
	if text := e.Error() + e.Remedy; strings.Contains(text, "one-time-1") || strings.Contains(text, "BEGIN") {
		b.Fatalf("the error tells a secret or a body: %s", text)
	}
	return e
}

func TestWorkflow(t *testing.T) {
	b := newBed(t)
	first := b.issue(b.registration(), keys()[0])
	if until := first.Leaf.NotAfter; until.Sub(time.Now().AddDate(1, 0, 0)).Abs() > time.Minute {
		t.Errorf("ends %v, want in a year", until)
	}
	if err := b.client.Prove(t.Context(), *first); err != nil {
		t.Errorf("the registered certificate does not work: %v", err)
	}
	if e := b.fails(b.registration(), upstream.Unavailable); e.Status != 401 || e.Remedy == "" {
		t.Errorf("second registration: %v, remedy %q; want 401 and a remedy", e, e.Remedy)
	}

	renewal := upstream.CertificateRequest{Kind: upstream.Renew, Current: first, NotAfter: first.Leaf.NotAfter}
	if same := b.issue(renewal, keys()[0]); same.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) != 0 {
		t.Error("a new certificate although none was due")
	}
	renewal.NotAfter = first.Leaf.NotAfter.AddDate(0, 2, 0)
	second := b.issue(renewal, keys()[0])
	if second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
		t.Error("no new certificate although one was due")
	}
	for _, c := range []*tls.Certificate{first, second} {
		if err := b.client.Prove(t.Context(), *c); err != nil {
			t.Errorf("after the renewal, both have to work: %v", err)
		}
	}

	third := b.issue(b.rotation(second), keys()[1])
	if err := b.client.Prove(t.Context(), *third); err != nil {
		t.Errorf("the rotated certificate does not work: %v", err)
	}
	for _, c := range []*tls.Certificate{first, second} {
		e := b.failed(b.client.Prove(t.Context(), *c), upstream.Unavailable)
		if e.Status != 401 || !strings.Contains(e.Remedy, "revoked") {
			t.Errorf("old certificate after the rotation: %v, remedy %q", e, e.Remedy)
		}
	}
}

func TestLostRegistrationIsFoundOut(t *testing.T) {
	b := newBed(t)
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Count: 1})
	r := b.registration()
	if e := b.fails(r, upstream.Unavailable); !e.Sent {
		t.Errorf("%v: does not say that it may have been carried out", e)
	}
	if n := b.sim.Log.Count("POST", "*clientRegistration.adm"); n != 1 {
		t.Errorf("sent %d times, want once", n)
	}
	r.Uncertain = true
	if e := b.fails(r, upstream.Lost); !strings.Contains(e.Remedy, "new private account") {
		t.Errorf("remedy %q", e.Remedy)
	}
}

func TestRegistrationThatNeverArrivedIsRepeated(t *testing.T) {
	b := newBed(t)
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Count: 1})
	r := b.registration()
	if e := b.fails(r, upstream.Unavailable); !e.Sent {
		t.Errorf("%v: does not say that it may have been carried out", e)
	}
	r.Uncertain = true
	b.issue(r, keys()[0])
}

func TestLostRotationIsFoundOut(t *testing.T) {
	b := newBed(t)
	first := b.issue(b.registration(), keys()[0])
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "*rotateClientKey.adm", Count: 1})
	r := b.rotation(first)
	if e := b.fails(r, upstream.Unavailable); !e.Sent {
		t.Errorf("%v: does not say that it may have been carried out", e)
	}
	r.Uncertain = true
	if e := b.fails(r, upstream.Lost); !strings.Contains(e.Remedy, "new private account") {
		t.Errorf("remedy %q", e.Remedy)
	}
	if n := b.sim.Log.Count("POST", "*rotateClientKey.adm"); n != 1 {
		t.Errorf("rotated %d times, want once", n)
	}
}

func TestRotationThatNeverArrivedIsRepeated(t *testing.T) {
	b := newBed(t)
	first := b.issue(b.registration(), keys()[0])
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Path: "*rotateClientKey.adm", Count: 1})
	r := b.rotation(first)
	b.fails(r, upstream.Unavailable)
	r.Uncertain = true
	b.issue(r, keys()[1])
}

func TestUncertainRotationIsNotJudgedDuringAnOutage(t *testing.T) {
	for _, fault := range []upstreamtest.Fault{
		{Kind: upstreamtest.FaultStatus, Status: 500},
		{Kind: upstreamtest.FaultWrongCA}, // this try is certainly not sent
	} {
		t.Run(string(fault.Kind), func(t *testing.T) {
			b := newBed(t)
			first := b.issue(b.registration(), keys()[0])
			b.sim.Faults.Add(fault)
			r := b.rotation(first)
			r.Uncertain = true
			if e := b.fails(r, upstream.Unavailable); !e.Sent {
				t.Errorf("%v: forgets that the earlier try may have been carried out", e)
			}
			if n := b.sim.Log.Count("POST", "*rotateClientKey.adm"); n != 0 {
				t.Errorf("rotated %d times without knowing what happened before", n)
			}
		})
	}
}

// The old certificate no longer works then, but for a reason of its own.
func TestUncertainRotationIsNotJudgedByAnExpiredCertificate(t *testing.T) {
	b := newBed(t)
	first := b.issue(b.registration(), keys()[0])
	past := *first.Leaf
	past.NotAfter = time.Now().Add(-time.Minute) // as our clock sees it
	expired := *first
	expired.Leaf = &past
	b.sim.Clock.Advance(400 * 24 * time.Hour)
	r := b.rotation(&expired)
	r.Uncertain = true
	if e := b.fails(r, upstream.Unavailable); !strings.Contains(e.Remedy, "expired at") {
		t.Errorf("%v, remedy %q", e, e.Remedy)
	}
}

// A rotation that the Manager carries out only after the client gave up, and
// after the old certificate was found to work still.
func TestRotationThatIsCarriedOutLate(t *testing.T) {
	b := newBed(t)
	first := b.issue(b.registration(), keys()[0])
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLate, Delay: upstreamtest.Duration(time.Second), Path: "*rotateClientKey.adm", Count: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r := b.rotation(first)
	_, err := b.client.Issue(ctx, r)
	if e := b.failed(err, upstream.Unavailable); !e.Sent {
		t.Errorf("%v: does not say that it may have been carried out", e)
	}
	r.Uncertain = true
	second := b.issue(r, keys()[1])
	for b.sim.Log.Count("POST", "*rotateClientKey.adm") < 2 { // the late one ends
		select {
		case <-t.Context().Done():
			t.Fatal("the late call never came")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := b.client.Prove(t.Context(), *second); err != nil {
		t.Errorf("the certificate that was answered does not work: %v", err)
	}
}

func TestRefusedBeforeSendingIsNotUncertain(t *testing.T) {
	b := newBed(t)
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultWrongCA})
	e := b.fails(b.registration(), upstream.Unavailable)
	if e.Sent || !strings.Contains(e.Remedy, "ca_file") {
		t.Errorf("%v: sent %v, remedy %q; want not sent and the ca_file", e, e.Sent, e.Remedy)
	}
	b.sim.Faults.Clear()
	b.issue(b.registration(), keys()[0])
}

func TestUnauthorizedIsToldApart(t *testing.T) {
	b := newBed(t)
	r := b.registration()
	r.NotAfter = time.Now().Add(time.Hour)
	first := b.issue(r, keys()[0])

	if err := b.sim.SetDisabled(b.account, true); err != nil {
		t.Fatal(err)
	}
	if e := b.failed(b.client.Prove(t.Context(), *first), upstream.Unavailable); !strings.Contains(e.Remedy, "disabled") {
		t.Errorf("disabled account: remedy %q", e.Remedy)
	}
	if err := b.sim.SetDisabled(b.account, false); err != nil {
		t.Fatal(err)
	}
	past := *first.Leaf
	past.NotAfter = time.Now().Add(-time.Minute) // as our clock sees it
	expired := *first
	expired.Leaf = &past
	b.sim.Clock.Advance(2 * time.Hour)
	if e := b.failed(b.client.Prove(t.Context(), expired), upstream.Unavailable); !strings.Contains(e.Remedy, "expired at") {
		t.Errorf("expired certificate: remedy %q", e.Remedy)
	}
}

func TestDuplicateSubjectIsInvalid(t *testing.T) {
	b := newBed(t)
	b.issue(b.registration(), keys()[0])
	if _, err := b.sim.CreatePrivateAccount("host2", "temp2", "one-time-2"); err != nil {
		t.Fatal(err)
	}
	r := upstream.CertificateRequest{CSR: b.csr(keys()[2]), Username: "temp2", Password: secret.New([]byte("one-time-2"))}
	e := b.fails(r, upstream.Invalid)
	if e.Status != 422 || e.Symbol != "duplicate" || !strings.HasPrefix(e.Text, "csr: ") || e.RequestID == "" || e.Sent {
		t.Errorf("%#v", e)
	}
}

func TestUnknownMethodNamesTheSetting(t *testing.T) {
	b := newBed(t)
	c := manager.New(manager.Config{HTTP: b.http, AccountID: b.account, RegisterMethod: "registerClient"})
	_, err := c.Issue(t.Context(), b.registration())
	if e := b.failed(err, upstream.Unavailable); !strings.Contains(e.Remedy, "register_method") {
		t.Errorf("remedy %q", e.Remedy)
	}
}

func TestVaultsAndMirrors(t *testing.T) {
	b := newBed(t)
	b.shown.Store(b.issue(b.registration(), keys()[0]))
	ctx := t.Context()
	id, err := b.client.CreateVault(ctx, manager.VaultRequest{Template: 1, Name: "v1", Description: "first"})
	if err != nil || id != 57 {
		t.Fatalf("id %d, %v; want 57", id, err)
	}
	_, err = b.client.CreateVault(ctx, manager.VaultRequest{Template: 1, Name: "v1"})
	b.failed(err, upstream.Invalid)
	_, err = b.client.CreateVault(ctx, manager.VaultRequest{Template: 9, Name: "v2"})
	b.failed(err, upstream.NotFound)

	mirror, err := b.client.CreateMirror(ctx, manager.MirrorRequest{Template: 2, Name: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	twin, err := b.client.CreateVault(ctx, manager.VaultRequest{Template: 1, Name: "m1a", Mirror: mirror, MirrorPosition: "position1"})
	if err != nil {
		t.Fatal(err)
	}
	if e := b.failed(b.client.DeleteVault(ctx, twin), upstream.Invalid); e.Symbol != "locked" {
		t.Errorf("vault of a locked mirror: %v", e)
	}
	vaults, err := b.client.Vaults(ctx)
	if err != nil || len(vaults) != 2 || !vaults[0].Locked || vaults[0].OwnerAccountID != b.account {
		t.Errorf("vaults %+v, %v", vaults, err)
	}
	if err := b.client.DeleteVault(ctx, id); err != nil {
		t.Error(err)
	}
	b.failed(b.client.DeleteVault(ctx, id), upstream.NotFound)
}

func TestLostVaultIsFoundByName(t *testing.T) {
	b := newBed(t)
	b.shown.Store(b.issue(b.registration(), keys()[0]))
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "*Vault*", Method: "POST", Count: 1})
	id, err := b.client.CreateVault(t.Context(), manager.VaultRequest{Template: 1, Name: "v1"})
	if err != nil || id == 0 {
		t.Fatalf("id %d, %v", id, err)
	}
	if n := b.sim.Log.Count("", "*createVaultFromTemplate.adm"); n != 1 {
		t.Errorf("made %d times, want once", n)
	}
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "*deleteVault.adm", Count: 1})
	if err := b.client.DeleteVault(t.Context(), id); err != nil {
		t.Errorf("lost answer of a deletion that was done: %v", err)
	}
	b.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop, Path: "*createVaultFromTemplate.adm", Count: 1})
	_, err = b.client.CreateVault(t.Context(), manager.VaultRequest{Template: 1, Name: "v2"})
	b.failed(err, upstream.Unavailable)
}

func TestEventAndAccount(t *testing.T) {
	b := newBed(t)
	b.shown.Store(b.issue(b.registration(), keys()[0]))
	events, err := b.client.Events(t.Context())
	if err != nil || len(events) != 0 {
		t.Errorf("at first: %v, %v", events, err)
	}
	b.sim.Clock.Advance(340 * 24 * time.Hour)
	for range 2 {
		events, err = b.client.Events(t.Context())
	}
	if err != nil || len(events) != 1 || events[0].Type != "certificateExpiring" ||
		!events[0].Expiration.Equal(b.shown.Load().Leaf.NotAfter) {
		t.Errorf("within a month: %+v, %v; want one event", events, err)
	}
	accounts, err := b.client.Accounts(t.Context())
	if err != nil || len(accounts) != 1 || accounts[0].ID != b.account || accounts[0].State != "registered" {
		t.Errorf("accounts %+v, %v", accounts, err)
	}
}

func TestClockSkewIsWarnedOfOnce(t *testing.T) {
	b := newBed(t)
	b.shown.Store(b.issue(b.registration(), keys()[0]))
	b.sim.Clock.Advance(2 * time.Minute)
	for range 2 {
		if _, err := b.client.Vaults(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(b.log.String(), "level=WARN"); n != 1 || b.client.Skew() < time.Minute {
		t.Errorf("%d warnings, skew %v; want one:\n%s", n, b.client.Skew(), b.log.String())
	}
	b.sim.Clock.SetOffset(0)
	if _, err := b.client.Vaults(t.Context()); err != nil || !strings.Contains(b.log.String(), "agrees") {
		t.Errorf("%v:\n%s", err, b.log.String())
	}
}
