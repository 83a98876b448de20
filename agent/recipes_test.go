package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/sinks"
)

// A recipe is a page of docs/recipes and how to run its server here, on free
// ports and in a directory of its own.
type recipe struct {
	page    string
	program string
	// dirs are made; paths below them are moved into the directory of the test.
	dirs []string
	// port is that of the page.
	port string
	// config is the whole configuration, around the block of the page.
	config func(s *server, block string) string
	// start makes what the server needs and is the command that runs it.
	start func(s *server) []string
	// pidFile names the process to kill, if that is not the one started.
	pidFile string
	// before speaks with the server until TLS can begin, after once it has begun.
	before, after func(c net.Conn) error
	// edit changes the block of the page further.
	edit func(s *server, yaml string) string
	// refusal is part of what the status says when the server was given a
	// certificate and the key of another.
	refusal string
	// owner is a change of the page's block that gives the files to somebody else.
	owner [2]string
	// unreadable is part of what the status says then; "" where the server works
	// only as a root that may read everything, and serves them all the same.
	unreadable string
	// fenced has the server started as root without the right to read what is
	// not root's, as units with a CapabilityBoundingSet= are, and fencedAgent the
	// agent, as its own unit does.
	fenced, fencedAgent bool
	// plain has Postfix started without the options that the page gives to smtpd.
	plain bool
}

// fence starts a command as root that may read what it owns and nothing else.
var fence = []string{"setpriv", "--bounding-set=-dac_override,-dac_read_search"}

// blocks are the fenced blocks of a page, by their language in order.
func blocks(t testing.TB, page string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/recipes/" + page + ".md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = append(out[m[1]], m[2])
	}
	return out
}

// A server is a recipe that runs.
type server struct {
	recipe
	t    testing.TB
	dir  string // everything is below it
	port string // that it listens on
	file string // its configuration
	yaml string
	cmd  *exec.Cmd
	exit chan struct{}
	log  string // what it says, in a file
	wary bool   // it is started fenced
}

// moved is a text of the page with the paths and the port of this test.
func (s *server) moved(text string) string {
	for _, d := range s.dirs {
		text = strings.ReplaceAll(text, d, s.dir+d)
	}
	return regexp.MustCompile(`\b`+s.recipe.port+`\b`).ReplaceAllString(text, s.port)
}

// newServer reads the page. The server does not run yet: it needs files.
func newServer(t testing.TB, r recipe) *server {
	t.Helper()
	cannot := t.Skipf
	if os.Getenv("SIGNET_NEED_SERVERS") == "1" {
		cannot = t.Fatalf
	}
	if os.Getuid() != 0 {
		cannot("servers are started by root, as on a host")
	}
	if _, err := os.Stat(r.program); err != nil {
		cannot("no server to run: %v", err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "signet-recipe-")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{recipe: r, t: t, dir: dir, port: freePort(t), log: dir + "/log"}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range r.dirs {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	page := blocks(t, r.page)
	s.yaml = page["yaml"][0]
	if len(page["yaml"]) > 1 { // the way without systemd
		s.yaml = regexp.MustCompile(`(?m)^    reload: \{unit:.*$`).ReplaceAllString(s.yaml, "    "+strings.TrimSpace(page["yaml"][1]))
	}
	if s.yaml = s.moved(s.yaml); r.edit != nil {
		s.yaml = r.edit(s, s.yaml)
	}
	var block string
	for language, texts := range page {
		if language != "yaml" {
			block = s.moved(texts[0])
		}
	}
	s.file = filepath.Join(dir, "server.conf")
	if err := os.WriteFile(s.file, []byte(r.config(s, block)), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// up starts the server and waits until it serves.
func (s *server) up(ca *x509.CertPool) {
	s.t.Helper()
	argv := s.start(s)
	if s.wary {
		argv = append(slices.Clone(fence), argv...)
	}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exit = make(chan struct{})
	cmd, exit := s.cmd, s.exit
	go func() { _ = cmd.Wait(); close(exit) }() // it is killed
	s.t.Cleanup(s.down)
	waitUntil(s.t, 20*time.Second, "the server is up", func() bool { _, err = s.dial(ca); return err == nil },
		func() string { return fmt.Sprintf("%v\n%s", err, s.said()) })
}

// said is the end of the server's log.
func (s *server) said() string {
	b, _ := os.ReadFile(s.log)
	return string(b[max(0, len(b)-2000):])
}

// down kills the server with all that it has started.
func (s *server) down() {
	if s.pidFile != "" { // it has made a group of its own
		b, _ := os.ReadFile(s.dir + s.pidFile)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
	<-s.exit
}

// revive starts a server again that has ended itself, as Apache does over a
// certificate that it cannot use.
func (s *server) revive(ca *recipeCA) {
	s.t.Helper()
	select {
	case <-s.exit:
		s.up(ca.pool)
	default:
	}
}

// waitUntil waits until f holds.
func waitUntil(t testing.TB, limit time.Duration, what string, f func() bool, why func() string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(limit); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s: %s", limit, what, why())
		}
	}
}

// dial makes one new connection as a client does, with all checks, and is the
// serial number that it sees.
func (s *server) dial(ca *x509.CertPool) (serial string, err error) {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if s.before != nil {
		if err := s.before(c); err != nil {
			return "", fmt.Errorf("before TLS: %w", err)
		}
	}
	conn := tls.Client(c, &tls.Config{RootCAs: ca, ServerName: "web.example"})
	if err := conn.Handshake(); err != nil {
		return "", err
	}
	if err := s.after(conn); err != nil {
		return "", fmt.Errorf("after TLS: %w", err)
	}
	return serialOf([][]byte{conn.ConnectionState().PeerCertificates[0].Raw}), nil
}

// A load is clients that connect anew again and again.
type load struct {
	mu     sync.Mutex
	n      int
	seen   map[string]time.Time // when a serial number was first seen
	errors []error
	stop   func()
}

func (s *server) load(ca *x509.CertPool) *load {
	l := &load{seen: map[string]time.Time{}}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
				}
				serial, err := s.dial(ca)
				l.note(serial, err)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	s.t.Cleanup(l.stop)
	return l
}

func (l *load) note(serial string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; err != nil {
		l.errors = append(l.errors, err)
	} else if l.seen[serial].IsZero() {
		l.seen[serial] = time.Now()
	}
}

func (l *load) saw(serial string) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.seen[serial]
	return at, ok
}

// prelude is the rest of the configuration of which a page has the files.
const prelude = `
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {env: PIN}}
upstreams:
  internal: {type: manpki, url: "https://pki.example:8888", auth: {username: host1, password: {file: /etc/signet/pki}}}
certificates:
  web: {issuer: internal, key: {store: file}, dns_names: [web.example]}
  other: {issuer: internal, key: {store: file}, dns_names: [web.example]}
`

// deliverer is an agent that only delivers: it has the files of a page, and is
// given certificates.
type deliverer struct {
	*consumerRig
	stop func()
}

func (s *server) deliverer(yaml string) *deliverer {
	s.t.Helper()
	cfg, err := config.Parse(s.page, []byte(prelude+yaml))
	if err != nil {
		s.t.Fatalf("the page: %v", err)
	}
	cfg.StateDir, cfg.RuntimeDir = s.dir+"/state", s.dir+"/run"
	cfg.HSM, cfg.Upstreams, cfg.Certificates = nil, nil, nil
	st, err := store.Open(cfg.StateDir)
	if err != nil {
		s.t.Fatal(err)
	}
	var log io.Writer = io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))}, st)
	if err != nil {
		s.t.Fatal(err)
	}
	return &deliverer{consumerRig: &consumerRig{Agent: a, st: st}}
}

// start runs what delivers and reloads, until stop is called.
func (d *deliverer) start(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, d.log, part{"consumers", d.consumers.Run}, part{"files", d.files.Run}) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, d.audit.Close(), d.st.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(d.stop)
}

// deliver publishes a certificate to the files.
func (d *deliverer) deliver(t testing.TB, c *sinks.Certificate) {
	t.Helper()
	if err := d.files.PublishCertificate(c); err != nil {
		t.Fatal(err)
	}
}

// settled waits until the consumer is in one of the states.
func (d *deliverer) settled(t testing.TB, s *server, states ...string) Item {
	t.Helper()
	var it Item
	waitUntil(t, 60*time.Second, fmt.Sprint("consumer ", states), func() bool {
		it = d.consumer()
		for _, want := range states {
			if it.State == want {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("%+v\n%s", it, s.said()) })
	return it
}

func readLine(c net.Conn, want string) error {
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, want) {
			return nil
		}
		if len(line) > 3 && line[3] != '-' {
			return fmt.Errorf("it answers %q", line)
		}
	}
}

// exchange sends a text and reads a line that begins with want.
func exchange(send, want string) func(net.Conn) error {
	return func(c net.Conn) error {
		if _, err := io.WriteString(c, send); err != nil {
			return err
		}
		return readLine(c, want)
	}
}

// rotate delivers certificates under load, and says how long each took to be
// served. No new connection may fail.
func rotate(t testing.TB, s *server, d *deliverer, ca *recipeCA, times int) (took []time.Duration) {
	t.Helper()
	l := s.load(ca.pool)
	for range times {
		c := ca.issue()
		at := time.Now()
		d.deliver(t, c)
		var seen time.Time
		waitUntil(t, 30*time.Second, "serial "+c.Serial+" is served", func() (ok bool) { seen, ok = l.saw(c.Serial); return ok }, s.said)
		took = append(took, seen.Sub(at).Round(time.Millisecond))
		d.settled(t, s, stateProven)
	}
	l.stop()
	if len(l.errors) > 0 || l.n < 3*times {
		t.Errorf("%s: %d of %d new connections failed: %v", s.page, len(l.errors), l.n, errors.Join(l.errors...))
	}
	return took
}

// serves holds that new connections see a certificate.
func (s *server) serves(ca *recipeCA, c *sinks.Certificate, when string) {
	s.t.Helper()
	var got string
	var err error
	waitUntil(s.t, 10*time.Second, when, func() bool { got, err = s.dial(ca.pool); return err == nil && got == c.Serial },
		func() string {
			return fmt.Sprintf("serial %s is served and not %s: %v\n%s", got, c.Serial, err, s.said())
		})
}

// check holds that a failure tells what happened and when it is tried again.
func check(t testing.TB, what string, it Item, want string) {
	t.Helper()
	t.Logf("%s: %s (hint: %s)", what, it.LastError, it.Hint)
	if !strings.Contains(it.LastError, want) || it.LastError == "" || it.RetryAt.IsZero() {
		t.Errorf("%s: %+v, want %q in its error", what, it, want)
	}
}

// again is a new deliverer after a failure, by which a certificate is delivered
// and served.
func (s *server) again(d *deliverer, ca *recipeCA) (*deliverer, *sinks.Certificate) {
	s.t.Helper()
	d.stop()
	d = s.deliverer(s.yaml)
	d.start(s.t)
	c := ca.issue()
	d.deliver(s.t, c)
	d.settled(s.t, s, stateProven)
	return d, c
}

// hasty is a deliverer for what is going to fail, and need not be waited for as
// long as on a host.
func (s *server) hasty(d *deliverer, yaml string) *deliverer {
	s.t.Helper()
	d.stop()
	d = s.deliverer(secondWithin.ReplaceAllString(strings.Replace(yaml, "prove: {", "prove: {within: 2s, ", 1), "$1"))
	d.start(s.t)
	return d
}

// secondWithin finds the second of two limits.
var secondWithin = regexp.MustCompile(`(within: 2s, .*), within: \d+s`)
