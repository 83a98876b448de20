package consumers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// A pairRig is a consumer of a file with two certificates, and of a set of them. It
// takes up what it is told to, and remembers what it has read.
type pairRig struct {
	*rig
	t         *testing.T
	ca        *testCA
	dir       string
	fs        *files.Files
	store     *memStore
	consumer  Consumer
	certs     map[string]*sinks.Certificate
	refuses   atomic.Bool
	isStopped atomic.Bool
	slow      chan struct{} // a try waits for it; nil is not

	readMu sync.Mutex
	read   []string
}

func newPairRig(t *testing.T) *pairRig {
	p := &pairRig{t: t, ca: newCA(t), dir: tempDir(t), store: newStore(), certs: map[string]*sinks.Certificate{}}
	way := wayFunc{"way", func(ctx context.Context) error {
		now := p.now()
		p.readMu.Lock()
		p.read = append(p.read, now)
		slow := p.slow
		p.readMu.Unlock()
		if slow != nil {
			<-slow
		}
		switch {
		case p.isStopped.Load():
			return ErrNotRunning
		case p.refuses.Load():
			return errors.New("no")
		}
		return nil
	}}
	p.consumer = Consumer{Name: "app", Targets: []Target{{Path: p.file(), Way: way}, {Path: p.set(), Way: way}}}
	p.begin()
	return p
}

func (p *pairRig) file() string { return filepath.Join(p.dir, "pair") }
func (p *pairRig) set() string  { return filepath.Join(p.dir, "tls") }

// begin is a start of the agent on what is there.
func (p *pairRig) begin() {
	p.t.Helper()
	var cs *Consumers
	begun := make(chan struct{}) // a try that is due at once may be before that
	queue := func() *Consumers { <-begun; return cs }
	template := `{{ (certificate "web").serial }}+{{ (certificate "other").serial }}`
	fs, err := files.New(files.Config{
		Files: []files.File{{Path: p.file(), Template: template, KeepPrevious: true}},
		Sets: []files.Set{{Dir: p.set(), Keep: 1, Entries: []files.File{
			{Path: "web", Template: `{{ (certificate "web").serial }}`}, {Path: "other", Template: `{{ (certificate "other").serial }}`}}}},
		Writing:   func(ds []files.Delivery) error { return queue().Writing(changesOf(ds)) },
		Written:   func(ds []files.Delivery) { queue().Written(changesOf(ds)) },
		Unwritten: func(ds []files.Delivery) { queue().Unwritten(changesOf(ds)) },
		TakenUp:   func(target string, gen int64) bool { return queue().TakenUp(target, gen) },
		Withdrawn: func(target string) { queue().Withdrawn(target) }})
	if err != nil {
		p.t.Fatal(err)
	}
	p.fs = fs
	p.rig = startOn(p.t, p.store, fs, p.consumer)
	cs = p.rig.Consumers
	close(begun)
	for _, c := range p.certs {
		if err := fs.PublishCertificate(c); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *pairRig) restart() {
	p.t.Helper()
	p.halt()
	p.begin()
}

// renew publishes another certificate of each name.
func (p *pairRig) renew(names ...string) {
	p.t.Helper()
	for _, name := range names {
		c := p.ca.issue(p.t, name+".example")
		c.Name = name
		p.certs[name] = c
		if err := p.fs.PublishCertificate(c); err != nil {
			p.t.Fatal(err)
		}
	}
}

// now is what is in the file; it has to be in the set as well.
func (p *pairRig) now() string {
	file, err := os.ReadFile(p.file())
	web, err1 := os.ReadFile(p.set() + "/web")
	other, err2 := os.ReadFile(p.set() + "/other")
	if set := string(web) + "+" + string(other); errors.Join(err, err1, err2) != nil || set != string(file) {
		return fmt.Sprintf("%s in the file and %s in the set, %v", file, set, errors.Join(err, err1, err2))
	}
	return string(file)
}

func (p *pairRig) await(what string, f func(Status) bool) Status {
	p.t.Helper()
	eventually(p.t, 10*time.Second, what, func() bool { return f(p.Status()[0]) })
	return p.Status()[0]
}

// good has the consumer take up what is there.
func (p *pairRig) good() string {
	p.t.Helper()
	p.refuses.Store(false)
	p.renew("web", "other")
	p.await("it is taken up", func(s Status) bool { return !s.Pending && !s.ReloadedAt.IsZero() })
	return p.now()
}

func (p *pairRig) hasBack(good, when string) {
	p.t.Helper()
	p.await(when+": the roll-back", func(s Status) bool { return !s.RetryAt.IsZero() && len(s.RolledBack) == 2 })
	p.readMu.Lock()
	defer p.readMu.Unlock()
	if now := p.now(); now != good || p.read[len(p.read)-1] != good {
		p.t.Errorf("%s: rolled back to %s, and %v read; want %s", when, now, p.read, good)
	}
}

// What is refused goes back to what the consumer took up last, not to what was
// written last: that may never have worked, nor been a pair.
func TestWhatIsRefusedGoesBackToWhatWasTakenUp(t *testing.T) {
	for name, refuse := range map[string]func(*pairRig){
		"two writes in a burst": func(p *pairRig) { p.renew("web", "other") },
		"a write while a try runs": func(p *pairRig) {
			slow := make(chan struct{})
			p.readMu.Lock()
			p.slow = slow
			before := len(p.read)
			p.readMu.Unlock()
			p.renew("web")
			eventually(p.t, 5*time.Second, "the try", func() bool { p.readMu.Lock(); defer p.readMu.Unlock(); return len(p.read) > before })
			p.renew("other")
			p.readMu.Lock()
			p.slow = nil
			p.readMu.Unlock()
			close(slow)
		},
		"a start between two writes": func(p *pairRig) { p.renew("web"); p.restart(); p.renew("other") },
		"another name since": func(p *pairRig) {
			p.renew("web")
			p.halt()
			p.consumer.Name = "app mended"
			p.begin()
			p.renew("other")
		},
		"a start after two writes": func(p *pairRig) { p.renew("web", "other"); p.restart() },
		"one after the other": func(p *pairRig) {
			p.renew("web", "other")
			p.await("a roll-back", func(s Status) bool { return !s.RetryAt.IsZero() && len(s.RolledBack) == 2 })
			p.renew("web", "other")
			p.await("another", func(s Status) bool { return s.Failures > 1 })
		},
		"a start after a roll-back": func(p *pairRig) {
			p.renew("web", "other")
			p.await("a roll-back", func(s Status) bool { return !s.RetryAt.IsZero() && len(s.RolledBack) == 2 })
			p.restart()
			p.renew("other", "web")
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPairRig(t)
			p.good()
			good := p.good()
			p.refuses.Store(true)
			refuse(p)
			p.hasBack(good, "at first")
			better := p.good()
			p.refuses.Store(true)
			p.renew("web")
			p.hasBack(better, "after it took up another")
		})
	}
}

// A consumer that is stopped has what it will read when it is started: that counts
// as taken up, but not what it has refused before.
func TestWhatAStoppedConsumerHasCountsUnlessItWasRefused(t *testing.T) {
	p := newPairRig(t)
	p.good()
	p.isStopped.Store(true)
	p.renew("web", "other")
	p.await("it is skipped", func(s Status) bool { return s.Skipped && !s.Pending })
	skipped := p.now()
	p.isStopped.Store(false)
	p.refuses.Store(true)
	p.renew("web", "other")
	p.hasBack(skipped, "started again")

	p.isStopped.Store(true)
	p.halt()
	p.store.edit(t, "app", func(rec *record) { rec.RetryAt = time.Time{} })
	p.begin()
	p.await("it is skipped again", func(s Status) bool { return s.Skipped && !s.Pending })
	if p.now() == skipped {
		t.Fatal("not written again")
	}
	p.restart() // which must not forget it
	p.isStopped.Store(false)
	p.renew("web", "other")
	p.hasBack(skipped, "after what it had refused")
}

// What a repair has put in place again was taken up before: there is nothing better
// to go back to.
func TestARepairIsNotRolledBack(t *testing.T) {
	p := newPairRig(t)
	p.good()
	good := p.good()
	p.restart() // repairs of files that were reloaded just now wait
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.fs.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	p.refuses.Store(true)
	if err := os.WriteFile(p.file(), []byte("edited"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the repair", func() bool { return p.now() == good })
	s := p.await("the failure", func(s Status) bool { return !s.RetryAt.IsZero() })
	if p.now() != good || s.RolledBack != nil || strings.Contains(s.Error, "not rolled back") {
		t.Errorf("%s in place, %+v", p.now(), s)
	}
	p.renew("web", "other") // and it is still what to go back to
	p.hasBack(good, "after a repair")
}

// A file that could not be written and then was withdrawn leaves nobody waiting, nor
// does one that was rolled back.
func TestAConsumerDoesNotWaitForWhatWasWithdrawn(t *testing.T) {
	store, files := newStore(), newFiles()
	var n atomic.Int64
	r := start(t, store, files, counting("app", &n, func(context.Context) error {
		if files.isOld("/f/a") {
			return nil
		}
		return errors.New("no")
	}, "/f/a", "/f/b"))
	idle := func(when string, reloads int64) {
		t.Helper()
		eventually(t, 3*time.Second, when, func() bool { return !r.Status()[0].Pending && !store.pending(t, "app") })
		if s := r.Status()[0]; s.Failures != 0 || s.RolledBack != nil || !s.RetryAt.IsZero() || n.Load() != reloads {
			t.Errorf("%s: %d reloads, %+v", when, n.Load(), s)
		}
	}
	changes := []Change{{Target: "/f/a", Generation: 10}}
	if err := r.Writing(changes); err != nil {
		t.Fatal(err)
	}
	r.Unwritten(changes)
	r.Withdrawn("/f/a")
	idle("what was not written", 0)

	r.deliver(t, "/f/a")
	eventually(t, 3*time.Second, "the roll-back", func() bool { s := r.Status()[0]; return len(s.RolledBack) == 1 && !s.RetryAt.IsZero() })
	reloads := n.Load()
	r.Withdrawn("/f/a")
	idle("what was rolled back", reloads)

	if err := r.Writing([]Change{{Target: "/f/a", Generation: 30}, {Target: "/f/b", Generation: 10}}); err != nil {
		t.Fatal(err)
	}
	r.Unwritten([]Change{{Target: "/f/a", Generation: 30}})
	r.Withdrawn("/f/a")
	if !store.pending(t, "app") {
		t.Error("what is to be written of another file was forgotten")
	}
	files.back["/f/a"] = true // for which the way says yes
	r.Written([]Change{{Target: "/f/b", Generation: 10}})
	idle("the other file", reloads+1)
}

// Which files of more than are worth to write down one by one were taken up is known
// after a start as well.
func TestWhatManyFilesHadIsKnownAfterAStart(t *testing.T) {
	var targets []string
	var changes, newer []Change
	for i := range manyTargets + 10 {
		path := fmt.Sprintf("/f/%d", i)
		targets = append(targets, path)
		changes = append(changes, Change{Target: path, Generation: int64(100 + i)})
		newer = append(newer, Change{Target: path, Generation: int64(1000 + i)})
	}
	store := newStore()
	var n atomic.Int64
	c := counting("app", &n, nil, targets...)
	begin := func() *rig { return start(t, store, newFiles(), c) }
	known := func(r *rig, changes []Change, want bool) {
		t.Helper()
		for _, ch := range changes {
			if r.TakenUp(ch.Target, ch.Generation) != want {
				t.Errorf("%+v: taken up %v", ch, !want)
			}
		}
	}
	r := begin()
	if err := r.Writing(changes); err != nil {
		t.Fatal(err)
	}
	known(r, changes, false)
	r.Written(changes)
	eventually(t, 3*time.Second, "the reload", func() bool { return n.Load() == 1 && !r.Status()[0].Pending })
	known(r, changes, true)
	if err := r.Writing(newer); err != nil {
		t.Fatal(err)
	}
	r.halt()
	r = begin()
	known(r, changes, true)
	known(r, newer, false)
}

// What was taken up while something newer was about to be written is what was there.
// Whether it was, if the newer came meanwhile, nobody knows.
func TestWhatWasTakenUpWhileSomethingNewerComes(t *testing.T) {
	for _, written := range []bool{false, true} {
		slow := make(chan struct{})
		var n atomic.Int64
		r := start(t, newStore(), newFiles(), counting("app", &n, func(context.Context) error { <-slow; return nil }, "/f/a"))
		older, newer := []Change{{Target: "/f/a", Generation: 10}}, []Change{{Target: "/f/a", Generation: 20}}
		if err := r.Writing(older); err != nil {
			t.Fatal(err)
		}
		r.Written(older)
		eventually(t, 3*time.Second, "the try", func() bool { return n.Load() == 1 })
		if err := r.Writing(newer); err != nil {
			t.Fatal(err)
		}
		if written {
			r.Written(newer)
		}
		slow <- struct{}{}
		eventually(t, 3*time.Second, "the reload", func() bool { o, _ := r.told(); return len(o) == 1 })
		if r.TakenUp("/f/a", 10) == written || r.TakenUp("/f/a", 20) {
			t.Errorf("written=%v: taken up: %v and %v", written, r.TakenUp("/f/a", 10), r.TakenUp("/f/a", 20))
		}
		close(slow)
	}
}

// A generation is later than what is in place, but need not be later than what was
// refused before, if the clock was set back.
func TestWhatAClockThatWasSetBackCalls(t *testing.T) {
	r := start(t, newStore(), newFiles(), Consumer{Name: "app", Targets: []Target{{Path: "/f/a"}}})
	for _, gen := range []int64{100, 50} {
		if err := r.Writing([]Change{{Target: "/f/a", Generation: gen}}); err != nil {
			t.Fatal(err)
		}
	}
	if !r.TakenUp("/f/a", 49) || r.TakenUp("/f/a", 50) || r.TakenUp("/f/a", 100) {
		t.Error("what was not taken up is taken for it")
	}
}
