package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/signet-agent/signet/client"
)

// slowly reports whether the long runs are wanted.
func slowly() bool { return os.Getenv("SIGNET_SLOW_TESTS") != "" }

// onlySlowly skips a test that kills at every write to the journal. That at
// every step which is written down, once each, is among agent's own tests.
func onlySlowly(t *testing.T) {
	t.Helper()
	if !slowly() {
		t.Skip("SIGNET_SLOW_TESTS is not set")
	}
}

// settled sees that after a start there is a usable identity again. Where the
// answer to a rotation died with the agent, the Manager has made a certificate
// that nobody has: then the status has to say so, and what an administrator does
// about it has to help. It reports whether that was so.
func (r *identityRig) settled(n int) (lost bool) {
	r.Helper()
	var last client.Item
	r.until("usable identity", 30*time.Second, func() bool {
		i, ok := r.host()
		last = i
		return ok && (i.State == "stuck" || i.Making == "" && r.works())
	})
	if last.State != "stuck" {
		return false
	}
	if !strings.Contains(last.Hint, "new private account") || !strings.Contains(last.Hint, "enroll again") {
		r.Errorf("stuck without saying what to do: %q", last.Hint)
	}
	if r.client.Ready(r.Context()) == nil {
		r.Error("ready although the Manager has revoked the certificate")
	}
	with := r.account(n)
	r.kill()
	r.start()
	r.until("status", 20*time.Second, func() bool { i, ok := r.host(); return ok && i.State == "stuck" })
	if err := r.client.Enroll(r.Context(), "host", with); err != nil {
		r.Fatalf("enroll with a new account: %v", err)
	}
	r.until("usable identity", 20*time.Second, r.works)
	return true
}

// churn renews and rotates until the agent is gone.
func (r *identityRig) churn(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		var err error
		if i%2 == 0 {
			err = r.client.Rotate(ctx, "host", i%4 == 0)
		} else {
			err = r.client.Renew(ctx, "host")
		}
		if err != nil {
			return
		}
	}
}

// The agent is killed at random in a loop of renewals and rotations. After each
// restart there is a usable identity, the Manager never sees a second
// registration, no key is lost and none is left over unexplained.
func TestKillingTheAgentLosesNoIdentity(t *testing.T) {
	kills := 20
	if slowly() {
		kills = 200
	}
	r := newIdentityRig(t)
	r.start()
	lost := 0
	for n := range kills {
		if r.settled(n) {
			lost++
		}
		if got := r.registrations(); got != 1+lost {
			t.Fatalf("kill %d: %d registrations for %d accounts", n, got, 1+lost)
		}
		if left := r.unexplained(); left != "" {
			t.Fatalf("kill %d: the ledger does not know %s", n, left)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.churn(ctx) }()
		<-time.After(rand.N(600 * time.Millisecond))
		r.kill()
		stop()
		<-done
		r.start()
		if n%3 == 0 { // and now and then while it starts
			<-time.After(rand.N(400 * time.Millisecond))
			r.kill()
			r.start()
		}
	}
	if r.settled(kills) {
		lost++
	}
	t.Logf("%d kills; the answer to a rotation was lost with the agent %d times, and reported each time", kills, lost)
	r.until("one key", 20*time.Second, func() bool { return len(r.privateKeys()) == 1 })
	r.stop()
}

// The agent is killed at every write to its journal: before, amid and after each
// step of an enrolment, a rotation and a renewal.
func TestKillingTheAgentAtEveryStep(t *testing.T) {
	onlySlowly(t)
	r := newIdentityRig(t)
	r.start()
	r.settled(0)
	accounts := 1
	for _, what := range []string{"rotate", "renew"} {
		kills := 0
		for n := 1; ; n++ {
			killed := r.killAtWrite(n, nil, func(ctx context.Context) {
				if what == "rotate" {
					_ = r.client.Rotate(ctx, "host", true) // it dies amid
				} else {
					_ = r.client.Renew(ctx, "host")
				}
			})
			if !killed {
				break
			}
			kills++
			r.start()
			if r.settled(accounts) {
				accounts++
			}
			if got := r.registrations(); got != accounts {
				t.Fatalf("%s, write %d: %d registrations for %d accounts", what, n, got, accounts)
			}
			if left := r.unexplained(); left != "" {
				t.Fatalf("%s, write %d: the ledger does not know %s", what, n, left)
			}
		}
		if kills == 0 {
			t.Errorf("%s: never killed", what)
		}
		t.Logf("%s: killed at %d writes", what, kills)
	}
	t.Logf("answers lost with the agent, and reported: %d", accounts-1)
	r.until("one key", 20*time.Second, func() bool { return len(r.privateKeys()) == 1 })
}

// killAtWrite kills the agent at the nth write to its journal while it does
// something, and reports false if it had no so many.
func (r *identityRig) killAtWrite(n int, before func(), do func(context.Context)) bool {
	r.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		r.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(r.state); err != nil {
		r.Fatal(err)
	}
	if before != nil {
		before()
	}
	ctx, stop := context.WithTimeout(r.Context(), 30*time.Second)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); do(ctx) }()
	quiet := time.NewTimer(time.Hour)
	defer quiet.Stop()
	finished := done
	for {
		select {
		case e := <-w.Events:
			if filepath.Base(e.Name) != "signet.db-wal" {
				continue
			}
			if n--; n == 0 {
				r.kill()
				stop()
				<-done
				return true
			}
		case <-finished:
			finished = nil
			quiet.Reset(2 * time.Second) // the old key goes a moment later
		case <-quiet.C:
			return false
		}
	}
}

// A registration is single-use: killed at any step of it, the agent either has
// its certificate or says that the account is lost, and never registers twice.
func TestKillingTheAgentWhileItEnrols(t *testing.T) {
	onlySlowly(t)
	r := newIdentityRig(t)
	accounts, lost := 1, 0
	for n := 1; ; n++ {
		killed := r.killAtWrite(n, r.start, func(ctx context.Context) {
			for ctx.Err() == nil && !r.works() {
				<-time.After(20 * time.Millisecond)
			}
		})
		if killed {
			r.start()
		}
		var last client.Item
		r.until("an identity, or word that it is lost", 30*time.Second, func() bool {
			i, ok := r.host()
			last = i
			return ok && (i.State == "stuck" || r.works())
		})
		if last.State == "stuck" {
			lost++
			if !strings.Contains(last.Hint, "new private account") {
				t.Errorf("stuck without saying what to do: %q", last.Hint)
			}
		}
		if got := r.registrations(); got != accounts {
			t.Fatalf("write %d: %d registrations for %d accounts", n, got, accounts)
		}
		if left := r.unexplained(); left != "" {
			t.Fatalf("write %d: the ledger does not know %s", n, left)
		}
		if !killed {
			break
		}
		// A new host on the same token.
		r.kill()
		if err := os.RemoveAll(r.state); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(r.state, 0o700); err != nil {
			t.Fatal(err)
		}
		r.newToken()
		with := r.account(accounts)
		r.write("once.json", `{"username": "`+with.Username+`", "password": "`+with.Password+`"}`)
		r.vars.E.Manager.CredentialsFile = r.path("once.json")
		accounts++
	}
	t.Logf("%d enrolments, %d killed so that the certificate was lost, and reported", accounts, lost)
}
