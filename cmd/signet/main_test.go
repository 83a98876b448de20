package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"signet": main})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("SIGNET_SOCKET", filepath.Join(e.WorkDir, "s"))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second
			shm, err := os.MkdirTemp("/dev/shm", "signet-")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(shm) })
			e.Setenv("SHM", shm) // a directory in memory
			return serve(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "waitfor": waitfor},
	})
}

// exits runs a command and checks its exit status: exits 4 signet get nosuch.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND ...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if args[0] != strconv.Itoa(got) {
		ts.Fatalf("exit status %d, want %s; stderr: %s", got, args[0], ts.ReadFile("stderr"))
	}
}

// waitfor waits until a file matches: waitfor agent.log 'version=2'.
func waitfor(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[1])
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && want.Match(data) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s never matched %s; it has %s", args[0], args[1], data)
		}
	}
}

// serve answers on the script's socket as an agent would. The answer to
// GET /v1/secrets/db is the script's file agent/GET/v1/secrets/db.http, or one
// with the query in its name (db?field=x.http) if there is one: a line "STATUS TYPE", then the body.
// What was asked goes to agent.log.
func serve(e *testscript.Env) error {
	l, err := net.Listen("unix", filepath.Join(e.WorkDir, "s"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &scriptAgent{dir: e.WorkDir}}
	e.Defer(func() { server.Close() })
	go server.Serve(l)
	return nil
}

type scriptAgent struct {
	dir string
	mu  sync.Mutex // guards agent.log
}

func (a *scriptAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.log(fmt.Sprintf("%s %s %s\n", r.Method, r.URL.RequestURI(), body))
	read := func() []byte {
		file := filepath.Join(a.dir, "agent", r.Method, r.URL.Path)
		if data, err := os.ReadFile(file + "?" + r.URL.RawQuery + ".http"); err == nil {
			return data
		}
		data, _ := os.ReadFile(file + ".http")
		return data
	}
	answer := read()
	if r.FormValue("wait") != "" { // a long poll: wait until the file changes
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for bytes.Contains(answer, []byte(`"version":"`+r.FormValue("version")+`"`)) {
			select {
			case <-tick.C:
				answer = read()
			case <-r.Context().Done():
				return
			}
		}
	}
	head, rest, _ := strings.Cut(string(answer), "\n")
	code, kind, _ := strings.Cut(head, " ")
	status, err := strconv.Atoi(code)
	if err != nil {
		status, kind, rest = 404, "application/problem+json", `{"title":"Not Found","status":404,"code":"not-found","detail":"there is none"}`
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	io.WriteString(w, strings.TrimSuffix(rest, "\n"))
}

func (a *scriptAgent) log(line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(a.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	io.WriteString(f, line)
}
