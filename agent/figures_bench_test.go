//go:build bench

package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// bareEnv has this test program serve what its file holds at a socket, as the
// reference that the agent's socket is held against.
const bareEnv = "SIGNET_BENCH_BARE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(bareEnv); dir != "" {
		fmt.Fprintln(os.Stderr, serveBare(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveBare answers every request with the same bytes, with no identification,
// policy or audit.
func serveBare(dir string) error {
	body, err := os.ReadFile(filepath.Join(dir, "body"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "bare.sock"))
	if err != nil {
		return err
	}
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
}

const (
	benchSecrets = 10000
	benchRounds  = 7
	benchSlice   = 2 * time.Second
	benchMinute  = time.Minute
)

// A benchHost is a host with a real agent, its HSM, and an upstream that has
// 10,000 secrets of 1 KiB.
type benchHost struct {
	*testing.T
	dir   string
	agent *exec.Cmd
	sim   *senhaseguratest.Server
}

// TestFiguresSocket measures the real agent, with sealed values, policy and
// audit, against a bare handler in a process of its own.
func TestFiguresSocket(t *testing.T) {
	h := newBenchHost(t)
	sock := filepath.Join(h.dir, "signet.sock")
	began := time.Now()
	h.start()
	h.until("all secrets", 5*time.Minute, func() bool { return h.fresh() == benchSecrets })
	t.Logf("first fetch of %d secrets: %v", benchSecrets, time.Since(began).Round(time.Millisecond))
	idle := h.rss()

	h.bare(h.answer(sock))
	bareSock := filepath.Join(h.dir, "bare.sock")
	ours, bare, ratios := rates(t, sock, bareSock)
	one, ref := latencies(t, sock, bareSock)

	for end := time.Now().Add(benchMinute); time.Now().Before(end); {
		load(t, sock, 16, benchSlice)
	}
	loaded := h.rss()

	h.stop()
	h.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultDrop})
	first := h.untilFirstAnswer(sock)

	table := [][]string{
		{"figure", "measured", "reference", "ratio", "must be"},
		{"GET 1 KiB, 16 connections", fmt.Sprintf("%.0f/s", ours), fmt.Sprintf("%.0f/s", bare), fmt.Sprintf("%.2f", ratios), ">= 0.70"},
		{"GET 1 KiB, 1 connection, p50", one[0].String(), ref[0].String(), fmt.Sprintf("%.2f", float64(one[0])/float64(ref[0])), "<= 1.30"},
		{"GET 1 KiB, 1 connection, p99", one[1].String(), ref[1].String(), fmt.Sprintf("%.2f", float64(one[1])/float64(ref[1])), "<= 1.30"},
		{"RSS after a minute of load", fmt.Sprintf("%.1f MB", loaded.total()), fmt.Sprintf("%.1f + %.1f", loaded.agent, loaded.worker), "", "< 64 MB"},
		{"RSS before it", fmt.Sprintf("%.1f MB", idle.total()), fmt.Sprintf("%.1f + %.1f", idle.agent, idle.worker), "", ""},
		{"start to first answer, upstream down", first.Round(time.Millisecond).String(), "", "", "< 1s"},
	}
	t.Log("\n" + format(table))
	for _, bad := range []struct {
		is   bool
		what string
	}{
		{ratios < 0.7, "requests per second"}, {float64(one[0]) > 1.3*float64(ref[0]), "p50"}, {float64(one[1]) > 1.3*float64(ref[1]), "p99"},
		{loaded.total() >= 64, "RSS"}, {first >= time.Second, "start"},
	} {
		if bad.is {
			t.Errorf("%s: not as it must be", bad.what)
		}
	}
}

func format(rows [][]string) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%-38s %12s %16s %6s %8s\n", r[0], r[1], r[2], r[3], r[4])
	}
	return b.String()
}

// rates are the medians of interleaved runs over 16 connections, and the median
// of the ratios of neighbours.
func rates(t *testing.T, sock, bareSock string) (ours, bare, ratio float64) {
	var a, b, r []float64
	load(t, sock, 16, benchSlice)
	load(t, bareSock, 16, benchSlice)
	for range benchRounds {
		x, y := load(t, sock, 16, benchSlice), load(t, bareSock, 16, benchSlice)
		a, b, r = append(a, x), append(b, y), append(r, x/y)
	}
	return median(a), median(b), median(r)
}

// latencies are the medians of p50 and p99 of interleaved runs over one
// connection.
func latencies(t *testing.T, sock, bareSock string) (ours, bare [2]time.Duration) {
	var at [2][2][]time.Duration // server, percentile
	for range benchRounds {
		for i, s := range []string{sock, bareSock} {
			p50, p99 := single(t, s, 20000)
			at[i][0], at[i][1] = append(at[i][0], p50), append(at[i][1], p99)
		}
	}
	for p := range 2 {
		ours[p], bare[p] = median(at[0][p]), median(at[1][p])
	}
	return ours, bare
}

func median[T float64 | time.Duration](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// load asks as fast as it goes over n connections and returns requests per
// second.
func load(t *testing.T, sock string, n int, d time.Duration) float64 {
	t.Helper()
	var wg sync.WaitGroup
	counts := make([]int, n)
	began := time.Now()
	for i := range n {
		wg.Go(func() {
			c, in := dial(t, sock)
			defer c.Close()
			for ; time.Since(began) < d; counts[i]++ {
				get(t, c, in, "s"+strconv.Itoa(7*counts[i]%benchSecrets))
			}
		})
	}
	wg.Wait()
	total := 0
	for _, c := range counts {
		total += c
	}
	return float64(total) / time.Since(began).Seconds()
}

// single asks n times over one connection.
func single(t *testing.T, sock string, n int) (p50, p99 time.Duration) {
	c, in := dial(t, sock)
	defer c.Close()
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		get(t, c, in, "s4711")
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n/2], took[n*99/100]
}

func dial(t *testing.T, sock string) (net.Conn, *bufio.Reader) {
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return c, bufio.NewReader(c)
}

// get asks and reads the answer with as little work as can be.
func get(t *testing.T, c net.Conn, in *bufio.Reader, name string) {
	var buf [64]byte
	req := append(append(append(buf[:0], "GET /v1/secrets/"...), name...), " HTTP/1.1\r\nHost: signet\r\n\r\n"...)
	if _, err := c.Write(req); err != nil {
		t.Error(err)
		panic(err)
	}
	if status, _ := answer(t, in, false); status != 200 {
		t.Errorf("%s: status %d", name, status)
	}
}

func answer(t *testing.T, in *bufio.Reader, keep bool) (status int, body []byte) {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			t.Error(err)
			panic(err)
		}
		if len(line) == 2 {
			break
		}
		if first {
			status, _ = strconv.Atoi(string(line[9:12]))
		} else if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	if keep {
		body = make([]byte, length)
		_, _ = io.ReadFull(in, body)
	} else {
		_, _ = in.Discard(length)
	}
	return status, body
}

func (h *benchHost) answer(sock string) []byte {
	c, in := dial(h.T, sock)
	defer c.Close()
	fmt.Fprint(c, "GET /v1/secrets/s4711 HTTP/1.1\r\nHost: signet\r\n\r\n")
	_, body := answer(h.T, in, true)
	return body
}

// newBenchHost builds the programs, makes a token and an upstream.
func newBenchHost(t *testing.T) *benchHost {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "signet-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &benchHost{T: t, dir: dir}
	for pkg, cgo := range map[string]string{"signet": "0", "signet-hsm": "1"} {
		cmd := exec.Command("go", "build", "-o", dir+"/", "github.com/signet-agent/signet/cmd/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		h.must(cmd)
	}
	h.write("softhsm2.conf", "directories.tokendir = "+dir+"/token\nobjectstore.backend = file\nlog.level = ERROR\n")
	h.write("pin", "123456")
	if err := os.Mkdir(dir+"/token", 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir+"/signet-hsm", "init-token", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--label", "signet", "--pin-file", dir+"/pin", "--so-pin-file", dir+"/pin")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+dir+"/softhsm2.conf")
	h.must(cmd)

	const id, password = "3ca8a98d907543812334f7f5dbafcfa6505e3319f", "849f0fea424d795e0a8625e17dbea6a0"
	vault := senhaseguratest.Examples(id, password)
	vault.Credentials, vault.Infos = nil, nil
	for i := range benchSecrets {
		vault.Infos = append(vault.Infos, &senhaseguratest.Info{ID: strconv.Itoa(i), Tag: "I" + strconv.Itoa(i), Type: "x", Content: strings.Repeat("0123456789abcdef", 64)})
	}
	sim, url, ca := senhaseguratest.Start(t, senhaseguratest.Config{Vault: vault})
	h.sim = sim
	h.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})))
	h.write("client-secret", password)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	var c strings.Builder
	fmt.Fprintf(&c, `state_dir: %[1]s/state
runtime_dir: %[1]s
hsm: {module: /usr/lib/softhsm/libsofthsm2.so, token: signet, pin: {file: %[1]s/pin}}
upstreams:
  pam: {type: senhasegura, url: "%[2]s", ca_file: %[1]s/ca.pem, auth: {grant: client_credentials, client_id: %[3]s, client_secret: {file: %[1]s/client-secret}}}
socket: {path: %[1]s/signet.sock, mode: "0600"}
policy: [{callers: {users: [%[4]s]}, allow: {secrets: ["*"], admin: true}}]
secrets:
`, dir, url, id, me.Username)
	for i := range benchSecrets {
		fmt.Fprintf(&c, "  s%d: {upstream: pam, info: I%d, ttl: 1h, max_stale: 24h}\n", i, i)
	}
	h.write("signet.yaml", c.String())
	return h
}

func (h *benchHost) must(cmd *exec.Cmd) {
	h.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		h.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (h *benchHost) write(name, text string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

// start starts the agent.
func (h *benchHost) start() {
	h.Helper()
	log, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		h.Fatal(err)
	}
	defer log.Close()
	h.agent = exec.Command(h.dir+"/signet", "run", "--config", h.dir+"/signet.yaml")
	h.agent.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.dir+"/softhsm2.conf")
	h.agent.Stdout, h.agent.Stderr = log, log
	h.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.agent.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = h.agent.Process.Kill(); _ = h.agent.Wait() })
}

func (h *benchHost) stop() {
	h.Helper()
	if err := h.agent.Process.Signal(syscall.SIGTERM); err != nil {
		h.Fatal(err)
	}
	if err := h.agent.Wait(); err != nil {
		h.Fatal(err)
	}
}

// untilFirstAnswer is how long a start takes until a cached secret is served.
func (h *benchHost) untilFirstAnswer(sock string) time.Duration {
	h.Helper()
	began := time.Now()
	h.start()
	for time.Since(began) < time.Minute {
		c, err := net.Dial("unix", sock)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		fmt.Fprint(c, "GET /v1/secrets/s5000 HTTP/1.1\r\nHost: signet\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode == 200 {
			d := time.Since(began)
			c.Close()
			return d
		}
		c.Close()
	}
	return time.Minute
}

// bare starts the reference in a process of its own.
func (h *benchHost) bare(body []byte) {
	h.Helper()
	if len(body) < 1024 {
		h.Fatalf("the answer is %q", body)
	}
	h.write("body", string(body))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareEnv+"="+h.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	h.until("the bare handler", 10*time.Second, func() bool {
		c, err := net.Dial("unix", filepath.Join(h.dir, "bare.sock"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// fresh counts the secrets that are there.
func (h *benchHost) fresh() int {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.dir, "signet.sock"))
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://signet/v1/secrets")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var list struct{ Secrets []struct{ State string } }
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return 0
	}
	n := 0
	for _, s := range list.Secrets {
		if s.State == "fresh" {
			n++
		}
	}
	return n
}

// memory is what is resident, in MB.
type memory struct{ agent, worker float64 }

func (m memory) total() float64 { return m.agent + m.worker }

func (h *benchHost) rss() memory {
	h.Helper()
	pid := strconv.Itoa(h.agent.Process.Pid)
	m := memory{agent: resident(h.T, pid)}
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		h.Fatal(err)
	}
	tasks, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
	for _, name := range tasks { // a child belongs to the thread that started it
		text, _ := os.ReadFile(name)
		children = append(append(children, ' '), text...)
	}
	seen := map[string]bool{}
	for _, child := range strings.Fields(string(children)) {
		if !seen[child] {
			m.worker += resident(h.T, child)
		}
		seen[child] = true
	}
	return m
}

func resident(t *testing.T, pid string) float64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kb) * 1024 / 1e6
}

func (h *benchHost) until(what string, within time.Duration, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(h.dir, "log"))
			h.Fatalf("no %s within %v\n%s", what, within, log[max(0, len(log)-3000):])
		}
	}
}
