package consumers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// A gatedRig is a queue with real files, and when they were written.
type gatedRig struct {
	*rig
	fs    *files.Files
	began time.Time
	mu    sync.Mutex
	wrote map[string][]time.Duration // by the name of the file, from began
}

// startGated runs a queue on files, whose drift nobody looks for.
func startGated(t *testing.T, cfg files.Config, store *memStore, consumers ...Consumer) *gatedRig {
	t.Helper()
	g := &gatedRig{began: time.Now(), wrote: map[string][]time.Duration{}}
	cfg.InTurn = func(targets []string, deliver func([]string)) { g.InTurn(targets, deliver) }
	cfg.Writing = func(ds []files.Delivery) error { return g.Writing(changesOf(ds)) }
	cfg.Written = func(ds []files.Delivery) {
		g.mu.Lock()
		for _, d := range ds {
			name := filepath.Base(d.Target)
			g.wrote[name] = append(g.wrote[name], time.Since(g.began))
		}
		g.mu.Unlock()
		g.Written(changesOf(ds))
	}
	var err error
	if g.fs, err = files.New(cfg); err != nil {
		t.Fatal(err)
	}
	g.rig = startOn(t, store, g.fs, consumers...)
	return g
}

func (g *gatedRig) publish(t *testing.T, name, version string) {
	t.Helper()
	s := &sinks.Secret{Name: name, Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})}
	if err := g.fs.PublishSecret(s); err != nil {
		t.Error(err)
	}
}

// last is when a file was last written.
func (g *gatedRig) last(name string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wrote[name]) == 0 {
		return -1
	}
	return g.wrote[name][len(g.wrote[name])-1]
}

// pairConfig are two files of a secret in a directory, beside one that others read
// and one that nobody is told of.
func pairConfig(dir string) files.Config {
	var cfg files.Config
	for _, name := range []string{"cert", "foreign", "key", "nobodys"} {
		cfg.Files = append(cfg.Files, files.File{Path: filepath.Join(dir, name), Secret: "pair", Field: "v", KeepPrevious: true})
	}
	return cfg
}

// pairReaders are the consumers of pairConfig: app is told by a function.
func pairReaders(dir string, told func(context.Context) error) []Consumer {
	app := Consumer{Name: "app"}
	for _, name := range []string{"cert", "key"} {
		app.Targets = append(app.Targets, Target{Path: filepath.Join(dir, name), Way: wayFunc{"app", told}})
	}
	well := func(context.Context) error { return nil }
	return []Consumer{app, {Name: "other", Targets: []Target{{Path: filepath.Join(dir, "foreign"), Way: wayFunc{"other", well}}}}}
}

func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// lasting is a hook that takes so long.
func lasting(d time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error { sleep(ctx, d); return err }
}

// Who is told to read a certificate and its key reads them of one delivery: the
// next waits, all of it, but never for long.
func TestANewerDeliveryWaitsWhileItsConsumerReads(t *testing.T) {
	for name, tt := range map[string]struct {
		hook func(context.Context) error
		want time.Duration // from when it was told
	}{
		"a hook that returns at once, as a signal does": {lasting(0, nil), reading},
		"a hook that reloads":                           {lasting(time.Second, nil), time.Second},
		"a hook that fails":                             {lasting(time.Second, errors.New("no")), time.Second},
		"a hook that hangs":                             {hang, longestHold},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			synctest.Test(t, func(t *testing.T) {
				g := startGated(t, pairConfig(dir), newStore(), pairReaders(dir, tt.hook)...)
				g.publish(t, "pair", "1")
				time.Sleep(quiet + 10*time.Millisecond)
				g.publish(t, "pair", "2")
				if cert, key := g.last("cert"), g.last("key"); cert != key || cert != quiet+tt.want {
					t.Errorf("delivered at %v and %v, and told at %v; want %v later", cert, key, quiet, tt.want)
				}
				g.halt()
			})
		})
	}
}

// A hook that hangs keeps the file of another consumer of the same item waiting for
// nothing, and its own for one wait however much is delivered.
func TestAStuckConsumerDelaysNoDeliveryOfOthers(t *testing.T) {
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := startGated(t, pairConfig(dir), newStore(), pairReaders(dir, hang)...)
		g.publish(t, "pair", "1")
		time.Sleep(quiet + reading + time.Millisecond)
		g.publish(t, "pair", "2")
		if now := quiet + reading + time.Millisecond; g.last("foreign") != now || g.last("nobodys") != now || g.last("cert") != quiet+longestHold {
			t.Errorf("delivered at %v to others, at %v to nobody, at %v to the stuck", g.last("foreign"), g.last("nobodys"), g.last("cert"))
		}
		time.Sleep(time.Second)
		for _, v := range []string{"3", "4", "5", "6"} {
			g.publish(t, "pair", v)
			time.Sleep(reading + quiet) // the others have read
		}
		if last := g.last("cert"); last > quiet+longestHold+time.Second+3*(reading+quiet) {
			t.Errorf("a stuck consumer has its files at %v", last)
		}
		g.halt()
	})
}

// What is no newer delivery goes on while the consumer reads: the repair of a file,
// a roll-back and what follows it, the first delivery of a process, and above all
// the withdrawal of a secret, after which nothing that waited comes back.
func TestWhatDoesNotWaitForAReload(t *testing.T) {
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := pairConfig(dir)
		cfg.Files = append(cfg.Files, files.File{Path: filepath.Join(dir, "late"), Secret: "late", Field: "v"})
		readers := pairReaders(dir, hang)
		readers[0].Targets = append(readers[0].Targets, Target{Path: filepath.Join(dir, "late"), Way: readers[0].Targets[0].Way})
		g := startGated(t, cfg, newStore(), readers...)
		cert := filepath.Join(dir, "cert")
		g.publish(t, "pair", "0")
		g.publish(t, "pair", "1")
		time.Sleep(quiet + 10*time.Millisecond)
		now := time.Since(g.began)
		gen, err := g.fs.Generation(cert)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.fs.Rollback(cert, gen)
		if err := errors.Join(err, g.fs.Redeliver(cert)); err != nil || g.last("cert") != now {
			t.Errorf("a roll-back and its end: at %v, %v", g.last("cert"), err)
		}
		if err := os.WriteFile(cert, []byte("edited"), 0o600); err != nil {
			t.Fatal(err)
		}
		g.publish(t, "pair", "1") // has a look at them
		g.publish(t, "late", "1")
		if b, err := os.ReadFile(cert); err != nil || string(b) != "1" || g.last("late") != now {
			t.Errorf("repaired: %q, %v; a first delivery: at %v", b, err, g.last("late"))
		}
		done := make(chan struct{})
		go func() { g.publish(t, "pair", "2"); close(done) }()
		synctest.Wait()
		if err := g.fs.WithdrawSecret("pair"); err != nil || time.Since(g.began) != now {
			t.Errorf("withdrawn at %v, %v", time.Since(g.began), err)
		}
		<-done
		for _, name := range []string{"cert", "foreign", "key", "nobodys"} {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is there after its withdrawal: %v", name, err)
			}
		}
		g.halt()
	})
}

// Of two deliveries that wait the newer one counts, whichever goes on first.
func TestOfWhatWaitsTheNewestIsDelivered(t *testing.T) {
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := startGated(t, pairConfig(dir), newStore(), pairReaders(dir, hang)...)
		g.publish(t, "pair", "0")
		time.Sleep(quiet + 10*time.Millisecond)
		var all sync.WaitGroup
		for _, v := range []string{"1", "2", "3", "4", "5"} {
			all.Go(func() { g.publish(t, "pair", v) })
			synctest.Wait()
		}
		all.Wait()
		for _, name := range []string{"cert", "foreign", "key", "nobodys"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "5" {
				t.Errorf("%s holds %q, %v", name, b, err)
			}
		}
		if n := len(g.wrote["cert"]); n != 2 {
			t.Errorf("written %d times", n)
		}
		g.halt()
	})
}

// Asked to stop, nothing waits for a reload any more.
func TestStoppingLetsDeliveriesGo(t *testing.T) {
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		g := startGated(t, pairConfig(dir), newStore(), pairReaders(dir, hang)...)
		g.publish(t, "pair", "1")
		time.Sleep(quiet + 10*time.Millisecond)
		done := make(chan struct{})
		go func() { g.publish(t, "pair", "2"); close(done) }()
		synctest.Wait()
		g.halt()
		<-done
		if at := g.last("cert"); at != quiet+10*time.Millisecond {
			t.Errorf("stopped at %v and delivered at %v", quiet+10*time.Millisecond, at)
		}
	})
}

// A consumer is told when what is being delivered to it is there, all of it; also
// what is not even announced yet. A file system that hangs does not keep it for ever.
func TestAReloadWaitsForDeliveriesUnderWay(t *testing.T) {
	for _, tt := range []struct{ takes, told time.Duration }{
		{time.Second, time.Second},
		{time.Hour, quiet + 2*longestHold}, // before a test, and before it is told
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var told time.Duration
			r := start(t, newStore(), newFiles(), Consumer{Name: "app", Targets: []Target{
				{Path: "/f/a", Way: wayFunc{"app", func(context.Context) error { told = time.Since(began); return nil }}}}})
			r.deliver(t, "/f/a")
			done := make(chan struct{})
			go func() {
				r.InTurn([]string{"/f/a"}, func([]string) { time.Sleep(tt.takes) })
				close(done)
			}()
			<-done
			synctest.Wait()
			if told != tt.told {
				t.Errorf("told after %v, want %v", told, tt.told)
			}
			r.halt()
		})
	}
}

// A proof that shows another certificate than before ends the waiting: the consumer
// has read its files. One of what was served anyhow does not.
func TestAProofOfSomethingNewLetsTheNextDeliveryGo(t *testing.T) {
	ca := newCA(t)
	dir := filepath.Join(tempDir(t), "web")
	first := ca.issue(t, "web.example")
	s := serve(t, config(t, first))
	var mu sync.Mutex
	var told []time.Time
	next := first
	reload := func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, time.Now())
		s.config.Store(config(t, next))
		return nil
	}
	g := startGated(t, files.Config{Files: []files.File{{Path: dir, Certificate: "web", KeepPrevious: true}}}, newStore(), Consumer{Name: "app", Targets: []Target{
		{Path: dir, Way: wayFunc{"app", reload}, Proof: Proof{Address: s.address, ServerName: "web.example"}}}})
	deliver := func(c *sinks.Certificate, n int) time.Duration {
		t.Helper()
		mu.Lock()
		next = c
		mu.Unlock()
		if err := g.fs.PublishCertificate(c); err != nil {
			t.Fatal(err)
		}
		at := g.began.Add(g.last("web"))
		eventually(t, 5*time.Second, "the proof", func() bool { o, _ := g.told(); return len(o) == n && !g.Status()[0].Pending })
		mu.Lock()
		defer mu.Unlock()
		if len(told) > 1 {
			return at.Sub(told[len(told)-2])
		}
		return 0
	}
	deliver(first, 1) // which it serves already
	if d := deliver(ca.issue(t, "web.example"), 2); d < reading || d > longestHold {
		t.Errorf("delivered %v after it was told, and proven by what it served before", d)
	}
	if d := deliver(ca.issue(t, "web.example"), 3); d >= reading {
		t.Errorf("delivered %v after it was told, and proven", d)
	}
}
