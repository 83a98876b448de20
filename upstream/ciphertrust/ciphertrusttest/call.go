package ciphertrusttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A call is one request on its way.
type call struct {
	r       *http.Request
	now     time.Time
	args    map[string]string // of the path
	query   url.Values
	body    []byte
	caller  *caller // nil on public routes
	dom     *domain // that the caller's token is for
	changed bool    // the state has to be saved
	header  http.Header
}

// A caller is who a valid JWT says it is.
type caller struct {
	userID, username, clientID string
	groups                     []string
}

// in reports whether the caller is in one of the groups, or an administrator.
func (c *call) in(groups ...string) bool {
	return slices.ContainsFunc(c.caller.groups, func(g string) bool {
		return g == "admin" || slices.Contains(groups, g)
	})
}

const base = "/api/v1"

// maxBody is the size of the largest request that is read.
const maxBody = 4 << 20

// ServeHTTP answers one call, without the faults: they are in front of it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &call{r: r, now: s.Clock.Now().UTC(), query: r.URL.Query(), body: body, header: w.Header(), dom: s.state.Domains[0]}
	id := uuid()
	var data any
	status, no := 0, malformed("The body cannot be read")
	if err == nil {
		data, status, no = s.answer(c)
	}
	if c.changed {
		if err := s.save(); err != nil {
			no = internal()
		}
	}
	if no != nil {
		status = no.status
	}
	s.record(c, id, status, no)
	w.Header().Set("X-Processing-Time", fmt.Sprintf("%.3fms", float64(time.Since(began).Microseconds())/1000))
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if no != nil {
		_, _ = io.WriteString(w, no.body(id)+"\n")
		return
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(data) // the caller has gone; no one is left to tell
}

// answer finds the route, finds out who calls, and carries the call out.
func (s *Server) answer(c *call) (any, int, *refusal) {
	r, no := s.find(c)
	if no != nil {
		return nil, 0, no
	}
	if r.crypto && c.r.Header.Get("Accept") == "" {
		return nil, 0, malformed("Accept header is missing")
	}
	if r.allow != nil {
		if no := s.authenticate(c); no != nil {
			return nil, 0, no
		}
		if !r.allow(c) {
			return nil, 0, forbidden()
		}
	}
	data, no := r.handle(c)
	return data, r.status, no
}

// find returns the route of a call and sets what the path names.
func (s *Server) find(c *call) (*route, *refusal) {
	path, ok := strings.CutPrefix(c.r.URL.EscapedPath(), base+"/")
	if !ok {
		return nil, notFound()
	}
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, raw := range segments {
		text, err := url.PathUnescape(raw)
		if err != nil || text == "" {
			return nil, notFound()
		}
		segments[i] = text
	}
	known := false
	for i := range s.routes {
		r := &s.routes[i]
		args, ok := r.match(segments)
		if !ok {
			continue
		}
		if r.method == c.r.Method {
			c.args = args
			return r, nil
		}
		known = true
	}
	if known {
		return nil, notAllowed()
	}
	return nil, notFound()
}

// A route is one method of one path.
type route struct {
	method string
	path   []string // segments; {name} stands for any
	status int      // of success
	crypto bool     // wants an Accept header
	allow  func(*call) bool
	handle func(*call) (any, *refusal)
}

func (r *route) match(segments []string) (map[string]string, bool) {
	if len(segments) != len(r.path) {
		return nil, false
	}
	args := map[string]string{}
	for i, want := range r.path {
		if name, ok := strings.CutPrefix(want, "{"); ok {
			args[strings.TrimSuffix(name, "}")] = segments[i]
		} else if want != segments[i] {
			return nil, false
		}
	}
	return args, true
}

// read reads a body that has to be there into v, a pointer to a struct.
func (c *call) read(s *Server, v any) *refusal {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return malformed("The body is missing")
	}
	return c.readAny(s, v)
}

// readAny reads a body, if there is one, into v, a pointer to a struct. Fields
// that v does not have are refused, as the property ALLOW_UNKNOWN_FIELDS says.
func (c *call) readAny(s *Server, v any) *refusal {
	if len(bytes.TrimSpace(c.body)) == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return malformed("Content-Type: want application/json")
	}
	// encoding/json takes names in any case; the product does not.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.body, &fields); err != nil {
		return malformed("The body is not a JSON object")
	}
	strict := s.property("ALLOW_UNKNOWN_FIELDS") != "true"
	known := fieldNames(reflect.TypeOf(v).Elem())
	for name := range fields {
		if strict && !slices.Contains(known, name) {
			return invalid(fmt.Sprintf("unknown field %q", name))
		}
	}
	d := json.NewDecoder(bytes.NewReader(c.body))
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(v); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return invalid(fmt.Sprintf("%s: a %s is not allowed here", wrong.Field, wrong.Value))
		}
		return invalid(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// fieldNames are the JSON names of a struct's fields.
func fieldNames(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if f.Anonymous {
			names = append(names, fieldNames(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
