package sqldbtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/signet-agent/signet/client"
)

// An Agent serves one secret, "db", as the agent does: what it holds changes
// only when a version is reported refused, or by Learn.
type Agent struct {
	Client *client.Client

	mu      sync.Mutex
	made    int               // guarded by mu; passwords
	vault   map[string]string // guarded by mu; what the upstream has
	held    map[string]string // guarded by mu; what is served
	version int               // guarded by mu; of held
	reports int               // guarded by mu
	changed chan struct{}     // guarded by mu; closed when held changes
}

// NewAgent starts an agent that holds fields as version 1.
func NewAgent(t testing.TB, fields map[string]string) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "signet-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{Client: &client.Client{Socket: socket}, vault: fields, held: fields, version: 1, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/secrets/db", a.get)
	mux.HandleFunc("POST /v1/secrets/db/refused", a.refused)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }() // until Close
	t.Cleanup(func() { a.Client.Close(); server.Close() })
	return a
}

// Rotate changes the password that the upstream has. The agent does not know
// yet.
func (a *Agent) Rotate(password string) { a.change(map[string]string{"password": password}) }

// RotateUser changes the user name as well.
func (a *Agent) RotateUser(username, password string) {
	a.change(map[string]string{"username": username, "password": password})
}

func (a *Agent) change(fields map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vault = maps.Clone(a.vault)
	maps.Copy(a.vault, fields)
}

// newPassword is one that no login had yet, with what has to be quoted in SQL and
// in a DSN.
func (a *Agent) newPassword() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made++
	return fmt.Sprintf("it's p@ss/(%d", a.made)
}

// Learn is the agent fetching from the upstream of itself.
func (a *Agent) Learn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.learn()
}

// Reports is how often a version was reported refused.
func (a *Agent) Reports() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reports
}

func (a *Agent) learn() {
	if maps.Equal(a.vault, a.held) {
		return
	}
	a.held = a.vault
	a.version++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Agent) refused(w http.ResponseWriter, r *http.Request) {
	var body struct{ Version string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reports++
	if body.Version == strconv.Itoa(a.version) {
		a.learn()
	}
	a.write(w)
}

func (a *Agent) get(w http.ResponseWriter, r *http.Request) {
	wait, _ := time.ParseDuration(r.FormValue("wait")) // none is 0
	a.mu.Lock()
	defer a.mu.Unlock()
	if since := r.FormValue("version"); wait > 0 && since == strconv.Itoa(a.version) {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(wait):
		case <-r.Context().Done():
		}
		a.mu.Lock()
	}
	a.write(w)
}

// write answers with what is held. The caller holds mu.
func (a *Agent) write(w http.ResponseWriter) {
	now := time.Now()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(client.Secret{Name: "db", Version: strconv.Itoa(a.version), Fields: a.held, FetchedAt: now, FreshUntil: now.Add(time.Hour)}) // to whom has gone
}
