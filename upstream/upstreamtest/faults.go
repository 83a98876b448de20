package upstreamtest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A FaultKind says what goes wrong.
type FaultKind string

// The kinds of faults.
const (
	FaultStatus  FaultKind = "status"     // answers Status instead of handling the call
	FaultSlow    FaultKind = "slow"       // waits for Delay, then handles the call
	FaultLate    FaultKind = "late"       // waits for Delay, then handles the call, even if the caller has gone
	FaultDrop    FaultKind = "drop"       // closes the connection without handling the call
	FaultLost    FaultKind = "lost-reply" // handles the call fully, then closes the connection
	FaultWrongCA FaultKind = "wrong-ca"   // shows a server certificate of a CA nobody knows
)

// A Fault is one thing that goes wrong, for the calls it matches.
type Fault struct {
	// ID is given by Faults.Add, to remove the fault by.
	ID   int64     `json:"id,omitempty"`
	Kind FaultKind `json:"kind"`
	// Method is the HTTP method to match; "" matches all.
	Method string `json:"method,omitempty"`
	// Path is the pattern of paths to match, where * stands for any run of
	// characters, slashes too; "" matches all. Not looked at by wrong-ca, as
	// there is no path yet in a handshake.
	Path string `json:"path,omitempty"`
	// Skip is how many matching calls go well first.
	Skip int `json:"skip,omitempty"`
	// Count is how many calls go wrong; 0 means all until the fault is removed.
	Count int `json:"count,omitempty"`

	// Status is the answer of FaultStatus: 429, 502, ...
	Status int `json:"status,omitempty"`
	// RetryAfter, if not "", is the Retry-After header of FaultStatus.
	RetryAfter string `json:"retry_after,omitempty"`
	// Body is the body of FaultStatus.
	Body string `json:"body,omitempty"`
	// Delay is how long FaultSlow and FaultLate wait.
	Delay Duration `json:"delay,omitzero"`
}

// check refuses a fault that would do nothing or cannot be meant.
func (f *Fault) check() error {
	switch f.Kind {
	case FaultStatus:
		if f.Status < 200 || f.Status > 599 {
			return fmt.Errorf("fault %s: status %d: want 200 to 599", f.Kind, f.Status)
		}
	case FaultSlow, FaultLate:
		if f.Delay <= 0 {
			return fmt.Errorf("fault %s: delay: missing", f.Kind)
		}
	case FaultDrop, FaultLost, FaultWrongCA:
	default:
		return fmt.Errorf("fault: kind %q: want status, slow, late, drop, lost-reply or wrong-ca", f.Kind)
	}
	if f.Count < 0 || f.Skip < 0 {
		return fmt.Errorf("fault %s: count and skip: want no negative number", f.Kind)
	}
	return nil
}

// Faults are the faults now switched on.
type Faults struct {
	mu   sync.Mutex
	last int64    // guarded by mu
	list []*Fault // guarded by mu; Skip and Count run down
}

// Add switches a fault on and returns its ID. It panics on a fault that the
// control handler would refuse, since then the test is wrong.
func (f *Faults) Add(fault Fault) int64 {
	if err := fault.check(); err != nil {
		panic("upstreamtest: " + err.Error())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(fault)
}

func (f *Faults) add(fault Fault) int64 {
	f.last++
	fault.ID = f.last
	f.list = append(f.list, &fault)
	return fault.ID
}

// Remove switches a fault off and reports whether it was still on.
func (f *Faults) Remove(id int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.list)
	f.list = slices.DeleteFunc(f.list, func(x *Fault) bool { return x.ID == id })
	return len(f.list) < n
}

// Clear switches all faults off.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = nil
}

// List returns the faults that are on, with what is left of Skip and Count.
func (f *Faults) List() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Fault, 0, len(f.list))
	for _, x := range f.list {
		out = append(out, *x)
	}
	return out
}

// replace makes the given faults the only ones.
func (f *Faults) replace(faults []Fault) error {
	for i := range faults {
		if err := faults[i].check(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = nil
	for _, x := range faults {
		f.add(x)
	}
	return nil
}

// take uses up and returns the first fault that the call matches, or nil.
func (f *Faults) take(match func(*Fault) bool) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, x := range f.list {
		if !match(x) {
			continue
		}
		if x.Skip > 0 {
			x.Skip--
			continue
		}
		hit := *x
		if x.Count == 1 {
			f.list = slices.Delete(f.list, i, i+1)
		} else if x.Count > 1 {
			x.Count--
		}
		return &hit
	}
	return nil
}

// wrongCA reports whether the handshake under way has to go wrong.
func (f *Faults) wrongCA() bool {
	return f.take(func(x *Fault) bool { return x.Kind == FaultWrongCA }) != nil
}

// strange reports whether the next handshake has to go wrong.
func (f *Faults) strange() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.list, func(x *Fault) bool { return x.Kind == FaultWrongCA && x.Skip == 0 })
}

// Wrap returns next as seen through the faults.
func (f *Faults) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.strange() {
			// A connection from before: its caller has to meet the new server.
			panic(http.ErrAbortHandler)
		}
		fault := f.take(func(x *Fault) bool {
			return x.Kind != FaultWrongCA &&
				(x.Method == "" || x.Method == r.Method) && (x.Path == "" || matchPath(x.Path, r.URL.Path))
		})
		if fault == nil {
			next.ServeHTTP(w, r)
			return
		}
		switch fault.Kind {
		case FaultStatus:
			if fault.RetryAfter != "" {
				w.Header().Set("Retry-After", fault.RetryAfter)
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(fault.Body)))
			w.WriteHeader(fault.Status)
			_, _ = w.Write([]byte(fault.Body))
		case FaultSlow:
			slow(w, r, next, fault.Delay, r.Context().Done())
		case FaultLate:
			slow(w, r, next, fault.Delay, nil)
		case FaultLost:
			next.ServeHTTP(&discard{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		default:
			panic(http.ErrAbortHandler)
		}
	})
}

// slow handles the call after the delay, unless gone is closed before.
func slow(w http.ResponseWriter, r *http.Request, next http.Handler, delay Duration, gone <-chan struct{}) {
	// net/http notices that the caller has gone only once the body was read.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	select {
	case <-time.After(time.Duration(delay)):
		next.ServeHTTP(w, r)
	case <-gone:
		panic(http.ErrAbortHandler)
	}
}

// matchPath reports whether path is as the pattern says.
func matchPath(pattern, path string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == path
	}
	rest, ok := strings.CutPrefix(path, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// discard is the ResponseWriter of an answer that gets lost.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
