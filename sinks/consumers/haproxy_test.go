package consumers

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/signet-agent/signet/sinks/files"
)

// fakeHAProxy is a runtime socket. It answers by the first word of a command,
// and keeps what it was told.
type fakeHAProxy struct {
	address string
	answers map[string]string

	mu   sync.Mutex
	told []string // commands, with their payloads
}

func newFakeHAProxy(t *testing.T, answers map[string]string) *fakeHAProxy {
	t.Helper()
	h := &fakeHAProxy{address: filepath.Join(tempDir(t), "s"), answers: answers}
	l, err := net.Listen("unix", h.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.serve(c)
		}
	}()
	return h
}

func (h *fakeHAProxy) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	text, err := in.ReadString('\n')
	for payload := strings.HasSuffix(text, "<<\n"); payload && err == nil; {
		var line string
		line, err = in.ReadString('\n')
		text += line
		payload = line != "\n"
	}
	h.mu.Lock()
	h.told = append(h.told, text)
	h.mu.Unlock()
	word, _, _ := strings.Cut(text, " ")
	io.WriteString(c, h.answers[word])
}

// What HAProxy gets is what its file holds, so that the next process serves the
// same; and its word is not taken for it. (T46, T65)
func TestHAProxyServesWhatItsFileHolds(t *testing.T) {
	ca := newCA(t)
	first, second := ca.issue(t, "web.example"), ca.issue(t, "web.example")
	read := func() ([]byte, error) { return pemBundle(second), nil }
	good := map[string]string{"set": "Transaction created for certificate web!\n", "commit": "Committing web.\nSuccess!\n", "show": "Serial: " + second.Serial + "\n", "abort": "none\n"}
	with := func(word, answer string) map[string]string {
		m := maps.Clone(good)
		m[word] = answer
		return m
	}
	for _, tt := range []struct {
		name    string
		answers map[string]string
		want    string
		words   []string
	}{
		{"as it should be", good, "", []string{"set", "commit", "show"}},
		{"refused", with("set", "unable to load certificate\n"), "unable to load", []string{"set", "abort"}},
		{"not committed", with("commit", "Can't commit\n"), "Can't commit", []string{"set", "commit", "abort"}},
		{"said to be done, and is not", with("show", "Serial: "+first.Serial+"\n"), "it has serial " + first.Serial, []string{"set", "commit", "show"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHAProxy(t, tt.answers)
			err := HAProxy{Socket: h.address, Cert: "web", Read: read}.Reload(t.Context())
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			var words []string
			for _, text := range h.told {
				word, _, _ := strings.Cut(text, " ")
				words = append(words, word)
			}
			if !slices.Equal(words, tt.words) {
				t.Errorf("told %v, want %v", words, tt.words)
			}
			if _, payload, _ := strings.Cut(h.told[0], "\n"); payload != string(pemBundle(second))+"\n" {
				t.Error("it was sent another bundle than its file has")
			}
		})
	}
}

// HAProxy never gets the key of another consumer: what the owner of the directory
// plants in place of the file is not read, and not waited for.
func TestHAProxyIsNotSentWhatWasPlanted(t *testing.T) {
	ca := newCA(t)
	web, other := ca.issue(t, "web.example"), ca.issue(t, "other.example")
	victim := filepath.Join(tempDir(t), "victim.pem")
	if err := os.WriteFile(victim, pemBundle(other), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"link":         func(path string) error { return os.Symlink(victim, path) },
		"hard link":    func(path string) error { return os.Link(victim, path) },
		"another file": func(path string) error { return os.WriteFile(path, pemBundle(other), 0o600) },
		"FIFO":         func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "web.pem")
			fs, err := files.New(files.Config{Files: []files.File{{Path: path, Certificate: "web"}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.PublishCertificate(web); err != nil {
				t.Fatal(err)
			}
			h := newFakeHAProxy(t, map[string]string{"set": "Transaction created\n", "commit": "Success!\n", "show": "Serial: " + web.Serial + "\n"})
			way := HAProxy{Socket: h.address, Cert: path, Read: func() ([]byte, error) { return fs.Read(path, "") }}
			if err := way.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.mu.Lock()
			h.told = nil
			h.mu.Unlock()
			if err := errors.Join(os.Remove(path), plant(path)); err != nil {
				t.Fatal(err)
			}
			if err := way.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "not what was delivered") {
				t.Errorf("error %v", err)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.told) != 0 {
				t.Errorf("it was told %d commands", len(h.told))
			}
		})
	}
}
