package upstreamtest

import (
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// logged is how many calls a Log keeps.
const logged = 10_000

// An Entry is one call, as real products log it: no query, no header, no body.
type Entry struct {
	ID     int64     `json:"id"`
	Time   time.Time `json:"time"`
	IP     string    `json:"ip"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Status is the HTTP status, or 0 if the connection was dropped.
	Status   int      `json:"status"`
	Duration Duration `json:"duration"`
}

// A Log keeps the last calls.
type Log struct {
	mu   sync.Mutex
	last int64   // guarded by mu
	list []Entry // guarded by mu; oldest first
}

// Entries returns the calls that were answered or dropped, oldest first.
func (l *Log) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// Count counts the logged calls whose method and path match; "" matches all
// and * in path stands for any run of characters.
func (l *Log) Count(method, path string) int {
	n := 0
	for _, e := range l.Entries() {
		if (method == "" || method == e.Method) && (path == "" || matchPath(path, e.Path)) {
			n++
		}
	}
	return n
}

// Clear forgets all calls.
func (l *Log) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = nil
}

func (l *Log) add(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.ID = l.last
	if len(l.list) == logged {
		l.list = slices.Delete(l.list, 0, logged/10)
	}
	l.list = append(l.list, e)
}

// wrap returns next with each call logged at the time that clock shows.
func (l *Log) wrap(clock *Clock, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ip, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			ip = r.RemoteAddr
		}
		e := Entry{Time: clock.Now().UTC(), IP: ip, Method: r.Method, Path: r.URL.Path}
		began := time.Now()
		sw := &statusWriter{ResponseWriter: w}
		done := false
		defer func() {
			e.Duration = Duration(time.Since(began))
			if done && sw.status == 0 {
				sw.status = http.StatusOK // what net/http sends for a handler that wrote nothing
			}
			if done {
				e.Status = sw.status
			}
			l.add(e)
		}()
		next.ServeHTTP(sw, r)
		done = true
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
