package socket

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// A watcher reads events one by one.
type watcher struct {
	t    *testing.T
	resp *http.Response
	in   *bufio.Scanner
}

func (r *rig) watch(lastID string) *watcher {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), "GET", "http://signet/v1/events", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		r.t.Fatalf("HTTP %d %s", resp.StatusCode, got)
	}
	w := &watcher{r.t, resp, bufio.NewScanner(resp.Body)}
	w.in.Scan() // retry
	w.in.Scan()
	return w
}

// next is the next event: its ID, its type and its data.
func (w *watcher) next() (id, event, data string) {
	for w.in.Scan() {
		name, value, _ := strings.Cut(w.in.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			event = value
		case "data":
			data = value
		case "":
			if event != "" {
				return id, event, data
			}
		}
	}
	w.t.Errorf("the stream has ended: %v", w.in.Err())
	return "", "", ""
}

func TestThousandWatchersSeeEachEventOnceAndInOrder(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	const watchers, events = 1000, 20
	done := make(chan string, watchers)
	for range watchers {
		w := r.watch("")
		go func() {
			for i := range events {
				if _, event, data := w.next(); event != "secret.changed" || !strings.Contains(data, `"version":"`+strconv.Itoa(i)+`"`) {
					done <- "event " + strconv.Itoa(i) + " was " + event + " " + data
					return
				}
			}
			done <- ""
		}()
	}
	for i := range events {
		r.PublishSecret(db(strconv.Itoa(i)))
		r.PublishSecret(db(strconv.Itoa(i))) // no change, no event
	}
	for range watchers {
		if fault := <-done; fault != "" {
			t.Fatal(fault)
		}
	}
}

func TestWatchersSeeOnlyWhatTheyMayRead(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	w := r.watch("")
	r.Emit(Event{Type: "secret.changed", Kind: access.Secret, Name: "other"})
	r.Emit(Event{Type: "started", Kind: access.Admin})
	r.Emit(Event{Type: "renewal.failed", Kind: access.Certificate, Name: "web"})
	if _, event, data := w.next(); event != "renewal.failed" || !strings.Contains(data, `"kind":"certificate","name":"web"`) {
		t.Errorf("got %s %s", event, data)
	}
}

func TestWatcherResumes(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	w := r.watch("")
	r.Emit(Event{Type: "a"})
	id, _, _ := w.next()
	r.Emit(Event{Type: "b"})
	r.Emit(Event{Type: "c"})
	w = r.watch(id)
	for _, want := range []string{"b", "c"} {
		if _, got, _ := w.next(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, unknown := range []string{"other-1", "x", r.run + "-99", r.run + "-x"} {
		if _, got, _ := r.watch(unknown).next(); got != "resync" {
			t.Errorf("after %q: %s, want resync", unknown, got)
		}
	}
	for range history + 10 {
		r.Emit(Event{Type: "d"})
	}
	if _, got, _ := r.watch(id).next(); got != "resync" {
		t.Errorf("too far behind: %s, want resync", got)
	}
}

// A watcher that does not read delays nobody, and is told when it reads again.
func TestSlowWatcherIsResynced(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	c, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /v1/events HTTP/1.1\r\nHost: signet\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil { // the answer has begun
		t.Fatal(err)
	}
	text := strings.Repeat("x", 1000)
	began := time.Now()
	for range 3 * history {
		r.Emit(Event{Type: "a", Attrs: []Attr{{"text", text}}})
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("emitting took %v", d)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("no resync: %v", err)
		}
		if strings.HasPrefix(line, "event: resync") {
			return
		}
	}
}

func TestWatcherLeaves(t *testing.T) {
	r := start(t, &fake{}, tester(true))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://signet/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	resp.Body.Close()
	r.Emit(Event{Type: "a"})
}
