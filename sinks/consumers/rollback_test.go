package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// A pid file that is not there, and a socket that nobody listens on, are as a unit
// that is stopped: no failure, and the new files stay. It is one where the process
// has died, and where a proof is wanted.
func TestWhoeverIsNotThereDoesNotRun(t *testing.T) {
	dir := tempDir(t)
	dead, silent := filepath.Join(dir, "dead.pid"), filepath.Join(dir, "silent.sock")
	if err := os.WriteFile(dead, []byte("4194300"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	read := func() ([]byte, error) { return pemBundle(newCA(t).issue(t, "web.example")), nil }
	for name, tt := range map[string]struct {
		way     Way
		outcome string
	}{
		"no pid file":           {Signal{PIDFile: filepath.Join(dir, "no.pid"), Name: "HUP"}, OutcomeSkipped},
		"a pid file, left over": {Signal{PIDFile: dead, Name: "HUP"}, OutcomeFailed},
		"no socket":             {HAProxy{Socket: filepath.Join(dir, "no.sock"), Cert: "web", Read: read}, OutcomeSkipped},
		"a socket, left over":   {HAProxy{Socket: silent, Cert: "web", Read: read}, OutcomeSkipped},
		"no Redis":              {Redis{Address: silent}, OutcomeSkipped},
		"no Redis over TCP":     {Redis{Address: "127.0.0.1:1"}, OutcomeSkipped},
		"no CA of Redis":        {Redis{Address: "127.0.0.1:1", CAFile: filepath.Join(dir, "no.pem")}, OutcomeFailed},
	} {
		for _, proof := range []Proof{{}, {Address: "127.0.0.1:1", Within: time.Second}} {
			t.Run(name+" "+proof.Address, func(t *testing.T) {
				want := tt.outcome
				if !proof.none() {
					want = OutcomeFailed
				}
				files := newFiles()
				r := start(t, newStore(), files, Consumer{Name: "app", Targets: []Target{{Path: "/f/a", Way: tt.way, Proof: proof}}})
				r.deliver(t, "/f/a")
				eventually(t, 3*time.Second, "the try", func() bool { o, _ := r.told(); return len(o) == 1 })
				if o, _ := r.told(); o[0] != want || files.isOld("/f/a") != (want == OutcomeFailed) || r.Status()[0].Skipped != (want == OutcomeSkipped) {
					t.Errorf("outcomes %v, old %v, %+v", o, files.isOld("/f/a"), r.Status()[0])
				}
			})
		}
	}
}

// What goes wrong with a new secret does not bring the old one back, which its
// upstream may have revoked. It is tried again with the new one.
func TestASecretThatWasReplacedDoesNotComeBack(t *testing.T) {
	dir := tempDir(t)
	log := filepath.Join(dir, "log")
	path := filepath.Join(dir, "password")
	hook := script(t, dir, "cat "+path+" >>"+log+"\nexit 1\n")
	var cs *Consumers
	fs, err := files.New(files.Config{Files: []files.File{{Path: path, Secret: "db", Field: "v", KeepPrevious: true}},
		Writing: func(ds []files.Delivery) error { return cs.Writing(changesOf(ds)) },
		Written: func(ds []files.Delivery) { cs.Written(changesOf(ds)) }})
	if err != nil {
		t.Fatal(err)
	}
	r := startOn(t, newStore(), fs, Consumer{Name: "app", Targets: []Target{{Path: path, Way: Exec{Argv: []string{hook}}}}})
	cs = r.Consumers
	for i, version := range []string{"old,", "new,"} {
		s := &sinks.Secret{Name: "db", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})}
		if err := fs.PublishSecret(s); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == i+1 })
	}
	s := r.Status()[0]
	if s.RolledBack != nil || s.RetryAt.IsZero() || !strings.Contains(s.Error, "its upstream has replaced secret db") {
		t.Errorf("status %+v", s)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "new," {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "old,new," {
		t.Errorf("the consumer read %q, %v", b, err)
	}
}

// However many files a consumer has, what is said of its failure is short.
func TestAFailureIsToldInShort(t *testing.T) {
	files := newFiles()
	files.noneLeft = true
	var n atomic.Int64
	var targets []string
	for i := range 10 {
		targets = append(targets, fmt.Sprintf("/f/%d", i))
	}
	r := start(t, newStore(), files, counting("app", &n, func(context.Context) error { return errors.New("no") }, targets...))
	r.deliver(t, targets...)
	eventually(t, 3*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	if s := r.Status()[0]; strings.Count(s.Error, "not rolled back") != mostNotes || !strings.HasSuffix(s.Error, "; and 7 more") {
		t.Errorf("error %s", s.Error)
	}
}

// The rotation of any certificate of a set is proven by that one, and not by the
// one whose file comes first.
func TestASetWithSeveralCertificatesIsProven(t *testing.T) {
	ca := newCA(t)
	other, web := ca.issue(t, "other.example"), ca.issue(t, "web.example")
	other.Name = "other"
	s := serve(t, config(t, web))
	dir := filepath.Join(tempDir(t), "tls")
	var cs *Consumers
	fs, err := files.New(files.Config{
		Sets:    []files.Set{{Dir: dir, Keep: 1, Entries: []files.File{{Path: "a.pem", Certificate: "other"}, {Path: "web.pem", Certificate: "web"}}}},
		Writing: func(ds []files.Delivery) error { return cs.Writing(changesOf(ds)) },
		Written: func(ds []files.Delivery) { cs.Written(changesOf(ds)) }})
	if err != nil {
		t.Fatal(err)
	}
	reloaded := wayFunc{"reload", func(context.Context) error {
		s.config.Store(config(t, web))
		return nil
	}}
	r := startOn(t, newStore(), fs, Consumer{Name: "app", Targets: []Target{
		{Path: dir, Way: reloaded, Proof: Proof{Address: s.address, ServerName: "web.example", Within: 2 * time.Second}}}})
	cs = r.Consumers
	if err := errors.Join(fs.PublishCertificate(other), fs.PublishCertificate(web)); err != nil {
		t.Fatal(err)
	}
	outcomes := func(n int) {
		t.Helper()
		eventually(t, 5*time.Second, "the try", func() bool { o, _ := r.told(); return len(o) == n })
		if o, f := r.told(); o[n-1] != OutcomeOK || r.Status()[0].ProvenAt.IsZero() {
			t.Errorf("outcomes %v, failures %v", o, f)
		}
	}
	outcomes(1)
	web = ca.issue(t, "web.example")
	if err := fs.PublishCertificate(web); err != nil {
		t.Fatal(err)
	}
	outcomes(2)
}

// What a crash finds rolled back is not rolled back once more: the new files are
// tried again, as it is not known how far the roll-back came.
func TestACrashAfterARollBack(t *testing.T) {
	store, files := newStore(), newFiles()
	var n, m atomic.Int64
	r := start(t, store, files, counting("app", &n, func(context.Context) error { return errors.New("no") }, "/f/a"))
	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	r.halt()
	store.edit(t, "app", func(rec *record) { rec.RetryAt = time.Time{} }) // as it is amid the roll-back
	again := start(t, store, files, counting("app", &m, nil, "/f/a"))
	eventually(t, 3*time.Second, "the reload", func() bool { return m.Load() == 1 && !store.pending(t, "app") })
	again.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the other reload", func() bool { return m.Load() == 2 && !store.pending(t, "app") })
	if want := []string{"rollback /f/a", "hold /f/a", "redeliver /f/a"}; !slices.Equal(files.calls, want) {
		t.Errorf("calls %v, want %v", files.calls, want)
	}
}

// The waiting time after a failure outlives the process: an agent that is
// started again and again does not reload its consumers each time, and does not
// write what did not work before the time is over.
func TestTheBackOffOutlivesTheProcess(t *testing.T) {
	for _, noneLeft := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			store, files := newStore(), newFiles()
			files.noneLeft = noneLeft
			var n, withNew atomic.Int64
			c := counting("app", &n, func(context.Context) error {
				if files.isOld("/f/a") {
					return nil
				}
				withNew.Add(1)
				return errors.New("no")
			}, "/f/a")
			r := start(t, store, files, c)
			r.deliver(t, "/f/a")
			time.Sleep(time.Second)
			retry := r.Status()[0].RetryAt
			r.halt()
			for range 5 {
				r = start(t, store, files, c)
				if err := files.publish("/f/a"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				s := r.Status()[0]
				if !s.Pending || s.Error == "" || s.Failures != 1 || !s.RetryAt.Equal(retry) || (len(s.RolledBack) == 0) != noneLeft {
					t.Errorf("status %+v", s)
				}
				r.halt()
			}
			if withNew.Load() != 1 || files.isOld("/f/a") == noneLeft {
				t.Errorf("%d tries within seconds, old %v", withNew.Load(), files.isOld("/f/a"))
			}
			r = start(t, store, files, c)
			time.Sleep(time.Until(retry) + time.Second)
			synctest.Wait()
			if withNew.Load() != 2 {
				t.Errorf("%d tries when the time is over", withNew.Load())
			}
			r.halt()
		})
	}
}

// Who corrects how a consumer is told does not wait for the back-off.
func TestAConsumerThatIsToldInAnotherWayIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, files := newStore(), newFiles()
		var n, m atomic.Int64
		r := start(t, store, files, counting("app", &n, func(context.Context) error { return errors.New("no") }, "/f/a"))
		r.deliver(t, "/f/a")
		time.Sleep(time.Second)
		r.halt()
		c := counting("app", &m, nil, "/f/a")
		c.Targets[0].Way = wayFunc{"another way", c.Targets[0].Way.(wayFunc).f}
		r = start(t, store, files, c)
		time.Sleep(time.Second)
		synctest.Wait()
		if s := r.Status()[0]; m.Load() != 1 || s.Pending || s.RolledBack != nil || files.isOld("/f/a") {
			t.Errorf("%d reloads, old %v, %+v", m.Load(), files.isOld("/f/a"), s)
		}
		r.halt()
	})
}

// At a start the items come when the token is open. Until then what was rolled
// back cannot be written again, and a reload with the previous files is no
// success: the failures go on counting.
func TestARollBackWaitsForItsItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, files := newStore(), newFiles()
		var n atomic.Int64
		c := counting("app", &n, func(context.Context) error {
			if files.isOld("/f/a") {
				return nil
			}
			return errors.New("no")
		}, "/f/a", "/f/b")
		r := start(t, store, files, c)
		r.deliver(t, "/f/a")
		time.Sleep(time.Second)
		r.halt()
		before := n.Load()
		time.Sleep(time.Hour)
		files.itemless = true
		r = start(t, store, files, c)
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := r.Status()[0]; n.Load() != before || s.Failures != 1 || len(s.RolledBack) != 1 || !files.isOld("/f/a") {
			t.Errorf("%d reloads without items, %+v", n.Load()-before, s)
		}
		r.deliver(t, "/f/b") // whose items have come
		time.Sleep(time.Second)
		synctest.Wait()
		if s := r.Status()[0]; n.Load() != before+1 || len(s.RolledBack) != 1 || !files.isOld("/f/a") {
			t.Errorf("%d reloads for the other file, %+v", n.Load()-before, s)
		}
		files.mu.Lock()
		files.itemless = false
		files.mu.Unlock()
		time.Sleep(longestBurst + time.Second)
		synctest.Wait()
		if s := r.Status()[0]; n.Load() != before+3 || s.Failures != 1 || len(s.RolledBack) != 1 {
			t.Errorf("%d reloads with items, %+v", n.Load()-before, s)
		}
		r.halt()
	})
}

// A crash between the note of a roll-back and the roll-back leaves the new files in
// place: they are tried again, though nothing has to be written for that.
func TestACrashBeforeARollBack(t *testing.T) {
	store, files := newStore(), newFiles()
	var n, m atomic.Int64
	r := start(t, store, files, counting("app", &n, func(context.Context) error { return errors.New("no") }, "/f/a"))
	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the failure", func() bool { _, f := r.told(); return len(f) == 1 })
	r.halt()
	store.edit(t, "app", func(rec *record) { rec.RetryAt, rec.Targets = time.Time{}, nil })
	r = startOn(t, store, unmovedFiles{newFiles()}, counting("app", &m, nil, "/f/a"))
	eventually(t, 3*time.Second, "the reload", func() bool { return m.Load() == 1 && !store.pending(t, "app") })
}

// hangingFiles do not say what is in one of their targets until they are freed.
type hangingFiles struct {
	*memFiles
	target string
	freed  chan struct{}
}

func (f hangingFiles) Generation(target string) (int64, error) {
	if target == f.target {
		<-f.freed
	}
	return f.memFiles.Generation(target)
}

// What an earlier run has left is looked for on file systems that may hang: who has
// files there waits and nobody else, at the start or at the end. What was rolled
// back is held before anything can be written.
func TestAHangingFileSystemDelaysNoStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, files := newStore(), hangingFiles{newFiles(), "/far/a", make(chan struct{})}
		var far, near atomic.Int64
		all := []Consumer{counting("far", &far, nil, "/far/a", "/far/b"), counting("near", &near, nil, "/near")}
		blob, err := json.Marshal(record{Pending: true, As: "in another way",
			Targets: map[string]written{"/far/a": {Generation: 10}}, RolledBack: map[string]string{"/far/b": "this"}})
		if err != nil {
			t.Fatal(err)
		}
		store.recs["far"], store.recs["near"] = blob, []byte(`{"pending":true,"targets":{"/near":{"generation":10}}}`)
		cs, err := New(Config{Consumers: all, Store: store, Files: files})
		if err != nil || files.held["/far/b"] != "this" || !slices.Equal(cs.Status()[0].RolledBack, []string{"/far/b"}) {
			t.Fatalf("held %v, %v, %+v", files.held, err, cs.Status()[0])
		}
		files.queue = cs
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- cs.Run(ctx) }()
		time.Sleep(time.Hour)
		if err := files.deliver("/far/b"); err != nil { // which is noted all the same
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if far.Load() != 0 || near.Load() != 1 {
			t.Errorf("%d and %d reloads", far.Load(), near.Load())
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(files.freed)
		r := startOn(t, store, files.memFiles, all...)
		time.Sleep(time.Second)
		if far.Load() != 1 || near.Load() != 1 || r.Status()[0].Pending {
			t.Errorf("freed: %d and %d reloads, %+v", far.Load(), near.Load(), r.Status()[0])
		}
		r.halt()
	})
}

// unmovedFiles have in place what is wanted.
type unmovedFiles struct{ *memFiles }

func (unmovedFiles) Redeliver(string) error { return nil }
