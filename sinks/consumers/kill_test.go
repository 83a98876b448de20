package consumers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/sinks/files"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIGNET_TEST_DELIVERER"); dir != "" {
		d, err := newDeliverer(dir, os.Getenv("SIGNET_TEST_SETTLE") != "")
		if err == nil {
			err = d.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// changesOf is what the agent does between files and consumers.
func changesOf(ds []files.Delivery) []Change {
	out := make([]Change, len(ds))
	for i, d := range ds {
		out[i] = Change{Target: d.Target, Generation: d.Generation, Leaves: d.Leaves, Repaired: d.Repaired}
	}
	return out
}

// A deliverer is the process that is killed. It delivers a secret to a file and to a
// set, which app copies, and a certificate to another file, which a server copies,
// and then shows. The server fails at random, and its files are rolled back. To
// settle it only does what is left to do; then the way of the server, and its name by
// that, is corrected.
type deliverer struct {
	dir    string
	settle bool
	fs     *files.Files
	cs     *Consumers
}

const certificates = 20 // that there are to deliver, in turns

// copied are the files that the consumers copy, as they are called there.
var copied = map[string]string{"f": "seen.f", "set/a": "seen.a", "set/b": "seen.b", "web": "seen.web"}

func newDeliverer(dir string, settle bool) (*deliverer, error) {
	d := &deliverer{dir: dir, settle: settle}
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		return nil, err
	}
	d.fs, err = files.New(files.Config{
		Files: []files.File{{Path: d.path("f"), Secret: "s", Field: "v", KeepPrevious: true}, {Path: d.path("web"), Certificate: "web", KeepPrevious: true}},
		Sets: []files.Set{{Dir: d.path("set"), Keep: 1, Entries: []files.File{
			{Path: "a", Secret: "s", Field: "v"}, {Path: "b", Secret: "s", Field: "v"}}}},
		Writing:   func(ds []files.Delivery) error { return d.cs.Writing(changesOf(ds)) },
		Written:   func(ds []files.Delivery) { d.cs.Written(changesOf(ds)) },
		Unwritten: func(ds []files.Delivery) { d.cs.Unwritten(changesOf(ds)) },
		TakenUp:   func(target string, gen int64) bool { return d.cs.TakenUp(target, gen) },
	})
	if err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(d.path("seen.web"), d.path("seen.web"))
		return &pair, err
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // whoever proves it hangs up on the wrong certificate
	server.StartTLS()
	app, web, mishap := d.copy("", "f", "set/a", "set/b"), "web", "[ $(($$ % 3)) != 0 ] || exit 1; "
	if settle {
		web, mishap = "web mended", ""
	}
	d.cs, err = New(Config{Store: st, Files: d.fs, Consumers: []Consumer{
		{Name: "app", Targets: []Target{{Path: d.path("f"), Way: app}, {Path: d.path("set"), Way: app}}},
		{Name: web, Targets: []Target{{Path: d.path("web"), Way: d.copy(mishap, "web"), Proof: Proof{
			Address: server.Listener.Addr().(*net.TCPAddr).String(), ServerName: "web.example", Within: 2 * time.Second}}}},
	}})
	return d, err
}

func (d *deliverer) path(name string) string { return filepath.Join(d.dir, name) }

// copy is a consumer that reads its files, those that there are.
func (d *deliverer) copy(first string, names ...string) Way {
	script := "cd " + d.dir + "; " + first
	for _, name := range names {
		script += fmt.Sprintf("[ ! -e %s ] || { cp %s tmp.$$ && mv tmp.$$ %s; } || exit 2; ", name, name, copied[name])
	}
	return Exec{Argv: []string{"/bin/sh", "-c", script}}
}

func (d *deliverer) run() error {
	i, err := readItem(d.dir)
	if d.settle {
		if err == nil {
			err = d.publish(i)
		}
		go d.cs.Run(context.Background())
		return errors.Join(err, d.settled())
	}
	go d.cs.Run(context.Background())
	for ; ; i++ {
		tmp := d.path("item.tmp")
		if err := errors.Join(os.WriteFile(tmp, []byte(strconv.Itoa(i+1)), 0o600), os.Rename(tmp, d.path("item")), d.publish(i+1)); err != nil {
			return err
		}
		<-time.After(rand.N(250 * time.Millisecond))
	}
}

// publish delivers what follows from a number, as every start does with the last.
func (d *deliverer) publish(i int) error {
	version := strconv.Itoa(i)
	s := &sinks.Secret{Name: "s", Version: version, Fields: sinks.FieldsOf(map[string]secret.Value{"v": secret.New([]byte(version))})}
	rest, err := os.ReadFile(d.path(certificateOf(i)))
	if err != nil {
		return err
	}
	c := &sinks.Certificate{Name: "web", Serial: version}
	for block, more := pem.Decode(rest); block.Type == "CERTIFICATE"; block, more = pem.Decode(rest) {
		c.Chain, rest = append(c.Chain, block.Bytes), more
	}
	c.Key = secret.New(rest)
	if err := d.fs.PublishSecret(s); err != nil {
		return err
	}
	return d.fs.PublishCertificate(c)
}

// settled waits until nothing is left to do.
func (d *deliverer) settled() error {
	for limit := time.Now().Add(15 * time.Second); time.Now().Before(limit); <-time.After(5 * time.Millisecond) {
		if !slices.ContainsFunc(d.cs.Status(), func(s Status) bool { return s.Pending }) {
			return nil
		}
	}
	return fmt.Errorf("not settled: %+v", d.cs.Status())
}

func certificateOf(i int) string { return fmt.Sprint("certificate.", i%certificates) }

func readItem(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "item"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	i, err2 := strconv.Atoi(string(b))
	return i, errors.Join(err, err2)
}

// killWhileDelivering kills the process at random moments, and counts how often
// a consumer was left without what was delivered last.
func killWhileDelivering(t *testing.T, times int) (forgotten int) {
	t.Helper()
	dir, ca := tempDir(t), newCA(t)
	for i := range certificates {
		if err := os.WriteFile(filepath.Join(dir, certificateOf(i)), pemBundle(ca.issue(t, "web.example")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	child := func(settle string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SIGNET_TEST_DELIVERER="+dir, "SIGNET_TEST_SETTLE="+settle)
		cmd.Stderr = os.Stderr
		return cmd
	}
	for range times {
		cmd := child("")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(rand.N(600 * time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if err := child("yes").Run(); err != nil {
			t.Errorf("not settled: %v", err)
			forgotten++
		}
		i, err := readItem(dir)
		if err != nil {
			t.Fatal(err)
		}
		for name, seen := range copied {
			want := []byte(strconv.Itoa(i))
			if name == "web" {
				want, _ = os.ReadFile(filepath.Join(dir, certificateOf(i)))
			}
			delivered, _ := os.ReadFile(filepath.Join(dir, name))
			read, _ := os.ReadFile(filepath.Join(dir, seen))
			if !bytes.Equal(delivered, want) || !bytes.Equal(read, want) {
				forgotten++
				t.Logf("%s of delivery %d: in the file %v, read by the consumer %v", name, i, bytes.Equal(delivered, want), bytes.Equal(read, want))
			}
		}
	}
	return forgotten
}

// TestKilled holds that a process that is killed at any moment forgets no
// reload: the next one makes it.
func TestKilled(t *testing.T) {
	if n := killWhileDelivering(t, 3); n != 0 {
		t.Errorf("%d reloads forgotten", n)
	}
}
