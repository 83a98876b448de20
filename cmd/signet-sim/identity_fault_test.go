package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// smallDisk puts the state on a disk of its own that is nearly nothing.
func (r *identityRig) smallDisk() {
	r.Helper()
	if err := unix.Mount("tmpfs", r.state, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		r.Skip("may not mount: ", err)
	}
	r.Cleanup(func() {
		r.kill()
		if err := unix.Unmount(r.state, unix.MNT_DETACH); err != nil {
			r.Error(err)
		}
	})
}

// enrolled starts the agent and waits for its certificate.
func (r *identityRig) enrolled() {
	r.Helper()
	r.start()
	r.until("usable identity", 30*time.Second, r.works)
}

// rotated rotates and sees that it is so.
func (r *identityRig) rotated() {
	r.Helper()
	before, _ := r.host()
	if err := r.client.Rotate(r.Context(), "host", false); err != nil {
		r.Fatal(err)
	}
	r.until("new generation", 10*time.Second, func() bool {
		i, ok := r.host()
		return ok && i.Generation > before.Generation && r.works()
	})
}

// A full disk: one clear error, everything that was there is served on, nothing
// is lost, and when there is room again it works again.
func TestFullDiskCostsNothing(t *testing.T) {
	r := newIdentityRig(t)
	r.smallDisk()
	r.enrolled()
	before, _ := r.host()
	filler := filepath.Join(r.state, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for block := bytes.Repeat([]byte{1}, 4096); ; {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	f.Close()
	var failed error
	for range 50 { // the journal has some room of its own
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		failed = r.client.Rotate(ctx, "host", false)
		cancel()
		if failed != nil {
			break
		}
	}
	if failed == nil || !strings.Contains(failed.Error(), "no space left") || strings.Contains(failed.Error(), "\n") {
		t.Fatalf("with a full disk, rotate says: %v", failed)
	}
	if i, ok := r.host(); !ok || i.Generation < before.Generation {
		t.Error("the identity is not served on")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.until("recovery", 30*time.Second, func() bool { return r.client.Renew(t.Context(), "host") == nil && r.works() })
	r.rotated()
	r.kill()
	r.enrolled()
	if n, left := r.registrations(), r.unexplained(); n != 1 || left != "" {
		t.Errorf("%d registrations; unexplained: %s", n, left)
	}
	r.until("one key", 10*time.Second, func() bool { return len(r.privateKeys()) == 1 })
}

// State that may only be read: one clear error at the start, nothing lost.
func TestReadOnlyStateIsOneClearError(t *testing.T) {
	r := newIdentityRig(t)
	r.smallDisk()
	r.enrolled()
	r.stop()
	if err := unix.Mount("", r.state, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(r.path("signet.log"))
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	select {
	case err := <-r.ended:
		r.agent = nil
		if err == nil {
			t.Error("ended without an error")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("runs on")
	}
	log, err := os.ReadFile(r.path("signet.log"))
	if err != nil {
		t.Fatal(err)
	}
	said := strings.TrimSpace(string(log[before.Size():]))
	if lines := strings.Split(said, "\n"); len(lines) != 1 || !strings.Contains(said, "read-only file system") || !strings.Contains(said, r.state) {
		t.Errorf("said:\n%s", said)
	}
	if err := unix.Mount("", r.state, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	r.enrolled()
	r.rotated()
	if n := r.registrations(); n != 1 {
		t.Errorf("%d registrations", n)
	}
}

// A damaged state file: it is set aside, said so, and the identity is there as
// it was at its last change.
func TestDamagedStateLosesNoIdentity(t *testing.T) {
	r := newIdentityRig(t)
	r.enrolled()
	r.rotated()
	r.until("old key gone", 10*time.Second, func() bool { return len(r.privateKeys()) == 1 })
	r.stop()
	if err := os.WriteFile(filepath.Join(r.state, "signet.db"), bytes.Repeat([]byte("rubbish "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	r.enrolled()
	s, err := r.client.Status(t.Context())
	if err != nil || len(s.Notices) != 1 || !strings.Contains(s.Notices[0], "damaged") || !strings.Contains(s.Notices[0], "goes on from its last copy") {
		t.Errorf("%v, %v", s.Notices, err)
	}
	if i, _ := r.host(); i.Generation != 2 {
		t.Errorf("generation %d", i.Generation)
	}
	r.rotated()
	if n, left := r.registrations(), r.unexplained(); n != 1 || left != "" {
		t.Errorf("%d registrations; unexplained: %s", n, left)
	}
	r.until("one key", 10*time.Second, func() bool { return len(r.privateKeys()) == 1 })
	if files, err := filepath.Glob(filepath.Join(r.state, "signet.db.damaged-*")); len(files) == 0 || err != nil {
		t.Errorf("the damaged file was not kept: %v", err)
	}
}

// Whatever is wrong with a certificate that the Manager sends: it is refused,
// said why, and the old one stays in use; the next good one is taken.
func TestWrongCertificatesOfTheManagerAreRefused(t *testing.T) {
	r := newIdentityRig(t)
	r.vars.Duration = "20d" // so near its end the Manager renews whenever it is asked
	r.enrolled()
	for _, tt := range []struct {
		mistake managertest.Mistake
		why     string
	}{
		{managertest.OtherKey, "for another key"}, {managertest.OtherCA, "not issued by the expected CA"}, {managertest.Expired, "ended at"},
		{managertest.NotYetValid, "not valid before"}, {managertest.NoClientAuth, "lacks the key usage"}, {managertest.Longer, "longer than asked for"},
	} {
		before, _ := r.host()
		r.control("PUT", "/mistakes", []managertest.Mistake{tt.mistake, tt.mistake, tt.mistake, tt.mistake, tt.mistake, tt.mistake}, nil)
		err := r.client.Renew(t.Context(), "host")
		if err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v", tt.mistake, err)
		}
		if i, ok := r.host(); !ok || i.Serial != before.Serial || i.State != "valid" || !strings.Contains(i.LastError, tt.why) || i.Failures == 0 || i.LastErrorAt.IsZero() {
			t.Errorf("%s: %+v", tt.mistake, i)
		}
		if !r.works() {
			t.Errorf("%s: the old certificate is not in use", tt.mistake)
		}
		r.control("PUT", "/mistakes", []managertest.Mistake{}, nil)
		if tt.mistake == managertest.Longer {
			continue // the Manager sees no need to renew that one for years
		}
		if err := r.client.Renew(t.Context(), "host"); err != nil {
			t.Errorf("good certificate after %s: %v", tt.mistake, err)
		}
		if i, ok := r.host(); !ok || i.Serial == before.Serial || i.LastError != "" || !r.works() {
			t.Errorf("after %s: %+v", tt.mistake, i)
		}
	}
}

// Renewing by account and date can be done any number of times; old and new are
// both accepted; and what the Manager notices is told as ours.
func TestRenewAsOftenAsOneLikesAndHearOfTheEnd(t *testing.T) {
	r := newIdentityRig(t)
	r.vars.Duration = "20d" // so that the Manager has noticed from the start
	r.enrolled()
	for range 5 {
		if err := r.client.Renew(t.Context(), "host"); err != nil {
			t.Fatal(err)
		}
	}
	valid := 0
	for _, c := range r.certificates() {
		if c.State == "revoked" {
			t.Error("a renewal revoked a certificate")
		}
		valid++
	}
	if valid < 2 || !r.works() {
		t.Errorf("%d certificates", valid)
	}
	r.kill()
	r.start()
	r.until("notice", 20*time.Second, func() bool {
		i, ok := r.host()
		return ok && strings.Contains(i.Notice, "the Manager says")
	})
	log, err := os.ReadFile(r.path("signet.log"))
	if err != nil || !bytes.Contains(log, []byte("the Manager says that the certificate is near its end")) {
		t.Error("the event is not in the log")
	}
}

// The answers to a registration and a rotation are lost on the way: the agent
// finds out what happened, repeats nothing, and says who has to do what.
func TestLostAnswersEndWithWordsForTheAdministrator(t *testing.T) {
	r := newIdentityRig(t)
	lost := upstreamtest.Fault{Kind: upstreamtest.FaultLost, Path: "*/clientRegistration.adm", Count: 1}
	r.control("POST", "/faults", lost, nil)
	r.start()
	stuck := func() bool {
		i, ok := r.host()
		return ok && i.State == "stuck" && strings.Contains(i.Hint, "new private account")
	}
	r.until("word that the registration is lost", 30*time.Second, stuck)
	again := func(n int) {
		with := r.account(n)
		r.kill()
		r.start()
		r.until("status", 20*time.Second, stuck)
		if err := r.client.Enroll(t.Context(), "host", with); err != nil {
			t.Fatal(err)
		}
		r.until("usable identity", 20*time.Second, r.works)
	}
	again(1)
	lost.Path = "*/rotateClientKey.adm"
	r.control("POST", "/faults", lost, nil)
	if err := r.client.Rotate(t.Context(), "host", false); err == nil {
		t.Error("rotated without an answer")
	}
	r.until("word that the rotation is lost", 30*time.Second, stuck)
	again(2)
	var log []upstreamtest.Entry
	r.control("GET", "/log", nil, &log)
	tries := map[string]int{}
	for _, e := range log {
		tries[filepath.Base(e.Path)]++
	}
	// Three accounts; the first was asked a second time, to find out.
	if tries["clientRegistration.adm"] > 5 || tries["rotateClientKey.adm"] != 1 {
		t.Error(fmt.Sprint(tries))
	}
	if left := r.unexplained(); left != "" {
		t.Errorf("unexplained: %s", left)
	}
	r.until("one key", 10*time.Second, func() bool { return len(r.privateKeys()) == 1 })
}

// Everything that happens next, or went wrong, is in status, plan, metrics and
// events.
func TestWhatHappensToACertificateIsShown(t *testing.T) {
	r := newIdentityRig(t)
	r.enrolled()
	seen := make(chan client.Event, 16)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e, err := range r.client.Events(ctx) {
			if err != nil {
				return
			}
			select {
			case seen <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	next := func(kind string) string {
		t.Helper()
		for {
			select {
			case e := <-seen:
				if e.Type == kind {
					return string(e.Data)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no event %s", kind)
			}
		}
	}
	r.control("PUT", "/faults", []upstreamtest.Fault{{Kind: upstreamtest.FaultStatus, Status: 500, Path: "*/rotateClientKey.adm", Count: 1}}, nil)
	if err := r.client.Rotate(t.Context(), "host", false); err == nil {
		t.Error("rotated in spite of a 500")
	}
	if e := next("renewal.failed"); !strings.Contains(e, `"tries":1`) || !strings.Contains(e, `"error":"`) || !strings.Contains(e, `"next":"`) {
		t.Error(e)
	}
	i, _ := r.host()
	if i.State == "valid" && (i.Failures != 1 || i.LastErrorAt.IsZero() || i.RetryAt.IsZero() || i.Making != "rotate") {
		t.Errorf("%+v", i)
	}
	if e := next("key.rotated"); !strings.Contains(e, `"generation":2`) || !strings.Contains(e, `"was":1`) || !strings.Contains(e, `"serial":"`) || !strings.Contains(e, `"until":"`) {
		t.Error(e)
	}
	r.until("new generation in the status", 10*time.Second, func() bool {
		var ok bool
		i, ok = r.host()
		return ok && i.Generation == 2 && i.Making == ""
	})
	if i.Serial == "" || i.NextAction != "renew" || !i.NextAt.After(time.Now()) || !i.NextAt.Before(i.NotAfter) || i.LastError != "" {
		t.Errorf("%+v", i)
	}
	metrics := r.scrape()
	for _, want := range []string{
		`signet_certificate_generation{certificate="host"} 2`, `signet_certificate_not_after_seconds{certificate="host"} 1.`, `signet_certificate_failures{certificate="host"} 0`,
		`signet_certificate_next_action_seconds{action="renew",certificate="host"} 1.`, `signet_renewal_failures_total{certificate="host"} 1`, `signet_certificate_fallback{certificate="host"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if certs := r.certificates(); certs[0].State != "revoked" || certs[len(certs)-1].State != "valid" {
		t.Errorf("after the rotation: %s, %s", certs[0].State, certs[len(certs)-1].State)
	}
	plan, err := r.client.Plan(t.Context())
	if err != nil || len(plan.Steps) == 0 {
		t.Fatal(plan, err)
	}
	if last := plan.Steps[len(plan.Steps)-1]; last.Action != "renew" || last.Name != "host" || !last.At.Equal(i.NextAt) {
		t.Errorf("%+v", plan.Steps)
	}
	stop()
	<-done
}
