package agent

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/agent/store"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/hsm/hsmtest"
	"github.com/signet-agent/signet/upstream/manager/managertest"
)

// killEnv holds the killJob of an agent that is to be killed.
const killEnv = "SIGNET_TEST_KILL"

// askedEnrol is what a new host does by itself.
const askedEnrol asked = "enrol"

// A killJob is what an agent in a process of its own does before it dies.
type killJob struct {
	Config string
	Report string // where a killReport goes
	Do     asked  // begun when all is well; "" = nothing
	// At is the step with which the process is killed: just after it is written
	// down, or, if Before, when it is done and nobody knows.
	At     string
	Before bool
}

// A killReport is what was seen before the end.
type killReport struct {
	Lost string // what an administrator has to do
	Keys int    // of the identity, in the ledger and not destroyed
	Died bool
}

// journalled names a record by the step that it was written down after.
func journalled(rec record) string {
	switch n := rec.Next; {
	case n.Proven:
		return "proven"
	case n.Chain != nil:
		return "issued"
	case n.Sent:
		return "sent"
	case n.CSR != nil:
		return "made"
	case n.exists():
		return "reserved"
	case rec.Asked != askedNothing:
		return "asked"
	case slices.ContainsFunc(rec.Old, func(v version) bool { return v.KeyID != rec.Current.KeyID }):
		return "published, with the old key"
	}
	return "published"
}

// TestAgentThatIsKilled is the process that TestKilledAtEveryJournalledStep
// kills.
func TestAgentThatIsKilled(t *testing.T) {
	var job killJob
	if err := json.Unmarshal([]byte(os.Getenv(killEnv)), &job); err != nil {
		t.Skip("is started by another test")
	}
	cfg, err := config.Load(job.Config)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(cfg.StatePath())
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAgent(cfg, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, st)
	if err != nil {
		t.Fatal(err)
	}
	k := &killing{job: job, agent: a, rotator: a.rotators["host"], armed: make(chan struct{})}
	k.rotator.spec.Grace = 10 * time.Millisecond
	save := k.rotator.save
	k.rotator.save = func(rec record) error { return k.save(rec, save) }
	if job.Do == askedEnrol {
		close(k.armed)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	k.work(t)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	k.tell()
}

// killing is the agent that is to be killed.
type killing struct {
	job     killJob
	agent   *Agent
	rotator *rotator
	armed   chan struct{} // closed when steps count

	mu     sync.Mutex
	report killReport // guarded by mu
}

// work waits until all is well, and does what is to be done.
func (k *killing) work(t *testing.T) {
	k.settle(t)
	if k.job.Do == "" || k.job.Do == askedEnrol || k.report.Lost != "" {
		return
	}
	close(k.armed)
	if err := k.rotator.do(t.Context(), ask{What: k.job.Do}); err != nil {
		t.Error(err)
	}
	k.settle(t)
}

// settle waits for an identity that works, with one key and nothing under way nor
// unexplained, or word that an administrator is needed.
func (k *killing) settle(t *testing.T) {
	eventually(t, "usable identity", func() error {
		s := k.rotator.snap.Load()
		switch {
		case s == nil:
			return errors.New("not begun")
		case s.Lost != "":
			k.seen(killReport{Lost: s.Lost})
			return nil
		case journalled(s.record) != "published":
			return fmt.Errorf("%s; %s", journalled(s.record), s.Error)
		}
		if _, err := k.agent.services["vaults"].manager.Vaults(t.Context()); err != nil {
			return err
		}
		unknown, err := k.agent.tokens["default"].Unknown(t.Context())
		if err != nil {
			return err
		}
		if len(unknown) > 0 { // what was left of the agent's own keys goes when these are made
			return fmt.Errorf("%d objects that the ledger does not know: %+v", len(unknown), unknown)
		}
		r := killReport{}
		for _, key := range k.agent.tokens["default"].Keys() {
			if key.Name == "host" && key.State != hsm.Destroyed {
				r.Keys++
			}
		}
		k.seen(r)
		return nil
	})
}

// seen puts what settle has seen into the report.
func (k *killing) seen(r killReport) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report.Lost, k.report.Keys = r.Lost, r.Keys
}

func (k *killing) save(rec record, save func(record) error) error {
	select {
	case <-k.armed:
	default:
		return save(rec)
	}
	last := journalled(rec) == k.job.At
	if last && k.job.Before {
		k.die()
	}
	err := save(rec)
	if last {
		k.die()
	}
	return err
}

// die is a power cut.
func (k *killing) die() {
	k.mu.Lock()
	k.report.Died = true
	k.mu.Unlock()
	k.tell()
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (k *killing) tell() {
	k.mu.Lock()
	defer k.mu.Unlock()
	blob, err := json.Marshal(k.report)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(k.job.Report, blob, 0o600); err != nil {
		panic(err)
	}
}

// A killHost is a host whose agent is killed: a token, an account, and what is
// left on disk between two starts.
type killHost struct {
	*testing.T
	sim     *managertest.Server
	url     string
	token   *hsmtest.SoftHSM
	dir     string
	account int64
}

// newKillHost makes a host that has its one-time credentials.
func newKillHost(t *testing.T, sim *managertest.Server, url string) *killHost {
	t.Helper()
	h := &killHost{T: t, sim: sim, url: url, token: hsmtest.New(t)}
	h.dir = filepath.Join(h.token.Dir, "host")
	if err := os.MkdirAll(filepath.Join(h.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	name := "host" + strconv.Itoa(len(sim.Accounts())) + ".example"
	var err error
	if h.account, err = sim.CreatePrivateAccount(name, name, "one-time-1"); err != nil {
		t.Fatal(err)
	}
	h.write("once.json", fmt.Sprintf(`{"username": %q, "password": "one-time-1"}`, name))
	h.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sim.CA.Certificate.Raw})))
	h.write("signet.yaml", fmt.Sprintf(`
state_dir: %[1]s/state
runtime_dir: %[1]s
hsm: {module: %[2]s, token: %[3]s, pin: {file: %[4]s}, worker: %[5]s}
upstreams:
  vaults: {type: manager, url: %[6]q, ca_file: %[1]s/ca.pem, account_id: %[7]d}
identities:
  host: {issuer: vaults, subject: {common_name: %[8]s}, duration: 20d, credentials_file: %[1]s/once.json}
`, h.dir, h.token.Module, h.token.Label, h.token.PINFile, h.token.Worker, url, h.account, name))
	return h
}

func (h *killHost) write(name, text string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

// run runs the agent, which does its job and may die of it.
func (h *killHost) run(job killJob) killReport {
	h.Helper()
	job.Config, job.Report = filepath.Join(h.dir, "signet.yaml"), filepath.Join(h.dir, "report")
	blob, err := json.Marshal(job)
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.CommandContext(h.Context(), os.Args[0], "-test.run=^TestAgentThatIsKilled$", "-test.timeout=2m")
	cmd.Env = append(append(os.Environ(), h.token.Env...), killEnv+"="+string(blob))
	out, err := cmd.CombinedOutput()
	var r killReport
	blob, rerr := os.ReadFile(job.Report)
	if rerr == nil {
		rerr = json.Unmarshal(blob, &r)
	}
	if rerr != nil || (err != nil) != r.Died {
		h.Fatalf("%v, %v\n%s", err, rerr, out)
	}
	if err := os.Remove(job.Report); err != nil {
		h.Fatal(err)
	}
	return r
}

// A killRound kills agents at one step after the other.
type killRound struct {
	*testing.T
	sim   *managertest.Server
	url   string
	hosts int // so far
	host  *killHost
}

// renew puts a new host in the place of the one before.
func (k *killRound) renew() {
	k.Helper()
	k.host = newKillHost(k.T, k.sim, k.url)
	k.hosts++
}

// run runs the agent, and checks what it found of the kill before.
func (k *killRound) run(job killJob) killReport {
	k.Helper()
	r := k.host.run(job)
	switch {
	case r.Lost != "":
		if !strings.Contains(r.Lost, "new private account") {
			k.Errorf("lost without saying what to do: %q", r.Lost)
		}
	case job.Do == askedEnrol: // was killed before it could look
	case r.Keys != 1:
		k.Errorf("%d keys", r.Keys)
	}
	registered := 0
	for _, e := range k.sim.Log.Entries() {
		if strings.HasSuffix(e.Path, "/clientRegistration.adm") && e.Status == http.StatusOK {
			registered++
		}
	}
	if registered > k.hosts {
		k.Errorf("%d registrations of %d accounts", registered, k.hosts)
	}
	return r
}

// The agent is killed with every step that it writes down: just after, and in
// the slow runs also when it is done and not yet written down. After each start
// there is a usable identity, or word that the one answer which an administrator
// has to replace is lost; no key is lost, none is left over, and none is
// registered twice.
func TestKilledAtEveryJournalledStep(t *testing.T) {
	renewal := []string{"asked", "reserved", "made", "sent", "issued", "proven", "published"}
	rotation := append(slices.Clone(renewal[:6]), "published, with the old key", "published")
	for _, before := range []bool{false, true} {
		if before && os.Getenv("SIGNET_SLOW_TESTS") == "" {
			continue
		}
		sim, url := managertest.Start(t, managertest.Config{})
		k := &killRound{T: t, sim: sim, url: url}
		k.renew()
		k.killEnrolment(renewal[1:], before)
		k.killAt(askedRenew, renewal, before)
		k.killAt(askedRotate, rotation, before)
		k.killAt(askedCompromised, rotation, before)
	}
}

// killEnrolment kills each start of a new host one step later.
func (k *killRound) killEnrolment(steps []string, before bool) {
	k.Helper()
	for n, step := range steps {
		r := k.run(killJob{Do: askedEnrol, At: step, Before: before})
		if r.Lost != "" && before && steps[n-1] == "issued" { // and known to nobody but the Manager
			k.renew()
			r = k.run(killJob{Do: askedEnrol, At: step, Before: before})
		}
		if !r.Died {
			k.Fatalf("enrol: not killed at %q; %s", step, r.Lost)
		}
	}
	if r := k.run(killJob{}); r.Lost != "" {
		k.Errorf("enrol: %s", r.Lost)
	}
}

// killAt kills the agent at each step of what it is asked for.
func (k *killRound) killAt(do asked, steps []string, before bool) {
	k.Helper()
	for n, step := range steps {
		r := k.run(killJob{Do: do, At: step, Before: before})
		if r.Lost != "" { // with the kill before
			if do == askedRenew || !before || steps[n-1] != "issued" {
				k.Errorf("%s, killed at %q: %s", do, steps[n-1], r.Lost)
			}
			k.renew()
			r = k.run(killJob{Do: do, At: step, Before: before})
		}
		if !r.Died {
			k.Fatalf("%s: not killed at %q; %s", do, step, r.Lost)
		}
	}
	if r := k.run(killJob{}); r.Lost != "" {
		k.Errorf("%s: %s", do, r.Lost)
	}
}
