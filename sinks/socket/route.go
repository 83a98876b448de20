package socket

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// A route is one path of the API.
type route struct {
	pattern string // for metrics
	get     func(*request) error
	post    func(*request) error
	any     func(*request) error // in place of both
	free    bool                 // of the limit of requests: who watches the agent must see it then too
}

// A routeKey is the shape of a path below /v1: "secrets", a name, "refused".
type routeKey struct {
	first, third string
	segments     int
}

func (s *Server) table() map[routeKey]*route {
	return map[routeKey]*route{
		{"secrets", "", 1}:            {pattern: "/v1/secrets", get: (*request).listSecrets},
		{"secrets", "", 2}:            {pattern: "/v1/secrets/{name}", get: (*request).getSecret},
		{"secrets", "refused", 3}:     {pattern: "/v1/secrets/{name}/refused", post: (*request).refused},
		{"certificates", "", 1}:       {pattern: "/v1/certificates", get: (*request).listCertificates},
		{"certificates", "", 2}:       {pattern: "/v1/certificates/{name}", get: (*request).getCertificate},
		{"certificates", "renew", 3}:  {pattern: "/v1/certificates/{name}/renew", post: (*request).renew},
		{"certificates", "rotate", 3}: {pattern: "/v1/certificates/{name}/rotate", post: (*request).rotate},
		{"keys", "", 1}:               {pattern: "/v1/keys", get: (*request).listKeys},
		{"keys", "", 2}:               {pattern: "/v1/keys/{name}", get: (*request).getKey},
		{"keys", "sign", 3}:           {pattern: "/v1/keys/{name}/sign", post: (*request).sign},
		{"audit", "", 1}:              {pattern: "/v1/audit", get: (*request).showAudit},
		{"audit", "lines", 2}:         {pattern: "/v1/audit/lines", get: (*request).auditLines},
		{"tokens", "", 2}:             {pattern: "/v1/tokens/{upstream}", get: (*request).getToken},
		{"upstreams", "proxy", 3}:     {pattern: "/v1/upstreams/{name}/proxy", any: (*request).proxy},
		{"upstreams", "login", 3}:     {pattern: "/v1/upstreams/{name}/login", post: (*request).login},
		{"upstreams", "logout", 3}:    {pattern: "/v1/upstreams/{name}/logout", post: (*request).logout},
		{"identities", "enroll", 3}:   {pattern: "/v1/identities/{name}/enroll", post: (*request).enroll},
		{"events", "", 1}:             {pattern: "/v1/events", get: (*request).watch},
		{"status", "", 1}:             {pattern: "/v1/status", get: (*request).showStatus},
		{"plan", "", 1}:               {pattern: "/v1/plan", get: (*request).plan},
		{"doctor", "", 1}:             {pattern: "/v1/doctor", get: (*request).doctor},
		{"policy", "explain", 2}:      {pattern: "/v1/policy/explain", get: (*request).explain},
		{"sealing-key", "", 1}:        {pattern: "/v1/sealing-key", post: (*request).rotateSealingKey},
		{"objects", "", 1}:            {pattern: "/v1/objects", get: (*request).objects},
		{"hsm", "clear-pin-guard", 3}: {pattern: "/v1/hsm/{name}/clear-pin-guard", post: (*request).clearPINGuard},
		{"healthz", "", 1}:            {pattern: "/v1/healthz", get: (*request).healthz, free: true},
		{"readyz", "", 1}:             {pattern: "/v1/readyz", get: (*request).readyz, free: true},
		{"metrics", "", 0}:            {pattern: "/metrics", get: (*request).metrics, free: true},
	}
}

// ServeHTTP is the way of every request: who, from where, which route, and the
// answer.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok { // only Serve makes contexts that have one
		http.Error(w, "caller not identified", http.StatusInternalServerError)
		return
	}
	c.served.Store(true)
	q := s.requests.Get().(*request)
	*q = request{s: s, w: w, r: r, peer: &c.peer, start: time.Now()}
	q.entry.ID, q.entry.Time, q.entry.Peer, q.entry.Method = s.nextID(), q.start, q.peer, r.Method
	rt, err := s.route(q)
	pattern := "other"
	if rt != nil {
		pattern = rt.pattern
	}
	if late := q.receive(bodyTimeout); err == nil {
		err = late
	}
	if err == nil {
		err = q.serve(rt)
	}
	if err != nil {
		q.fail(err)
	}
	s.cfg.Observe(pattern, q.status, time.Since(q.start))
	*q = request{} // nothing of it may live on in the pool
	s.requests.Put(q)
}

func (s *Server) nextID() string {
	var b [32]byte
	id := append(b[:0], s.run...)
	id = append(id, '-')
	return string(strconv.AppendUint(id, s.counter.Add(1), 10))
}

// route finds the route and the name in the path.
func (s *Server) route(q *request) (*route, error) {
	if err := checkOrigin(q.r); err != nil {
		return nil, err
	}
	path := q.r.URL.Path
	escaped := q.r.URL.RawPath != ""
	if escaped {
		path = q.r.URL.RawPath
	}
	rt, name, rest := s.find(path)
	if rt == nil {
		return nil, &Problem{Code: CodeNotFound, Detail: "there is no such path in the API"}
	}
	if rt.any != nil {
		rest, _ = strings.CutPrefix(q.r.URL.EscapedPath(), path[:len(path)-len(rest)])
	}
	if escaped {
		var err error
		if name, err = url.PathUnescape(name); err != nil {
			return rt, invalid("the path is not encoded correctly")
		}
	}
	q.name, q.rest = name, rest
	if rt.free {
		return rt, nil
	}
	if wait, ok := s.limit.Take(q.peer.UID, q.start); !ok {
		return rt, &Problem{Code: CodeBusy, Detail: "too many requests by this user", RetryAfter: wait}
	}
	return rt, nil
}

// find splits a path by its slashes. It allocates nothing.
func (s *Server) find(path string) (rt *route, name, rest string) {
	if path == "/metrics" {
		return s.routes[routeKey{"metrics", "", 0}], "", ""
	}
	path, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		return nil, "", ""
	}
	key := routeKey{segments: 1}
	var more bool
	if key.first, path, more = strings.Cut(path, "/"); !more {
		return s.routes[key], "", ""
	}
	if key.first == "policy" || key.first == "audit" {
		key.third, key.segments = path, 2
		return s.routes[key], "", ""
	}
	key.segments++
	if name, path, more = strings.Cut(path, "/"); name == "" {
		return nil, "", ""
	}
	if !more {
		return s.routes[key], name, ""
	}
	key.segments++
	key.third, rest, more = strings.Cut(path, "/")
	rt = s.routes[key]
	if more && (rt == nil || rt.any == nil) {
		return nil, "", ""
	}
	if more {
		rest = path[len(key.third):]
	}
	return rt, name, rest
}

func (q *request) serve(rt *route) error {
	if rt.any != nil {
		return rt.any(q)
	}
	handler, allow := rt.get, "GET, HEAD"
	if rt.post != nil {
		handler, allow = rt.post, "POST"
	}
	switch m := q.r.Method; {
	case rt.post != nil && m == http.MethodPost, rt.get != nil && (m == http.MethodGet || m == http.MethodHead):
		return handler(q)
	}
	q.w.Header().Set("Allow", allow)
	return &Problem{Code: codeMethod, Detail: "the method is not one of " + allow}
}

// checkOrigin refuses what a browser or a forged server-side request sends. Both
// can reach a Unix socket only through a forwarder; a program that uses the
// socket on purpose sends none of it.
func checkOrigin(r *http.Request) error {
	h := r.Header
	if h["Origin"] != nil || h["Referer"] != nil || h["Sec-Fetch-Site"] != nil || h["Sec-Fetch-Mode"] != nil {
		return &Problem{Code: CodeDenied, Detail: "requests of browsers are refused"}
	}
	if r.Host == "" || ownHost(r.Host) {
		return nil
	}
	return &Problem{Code: CodeDenied, Detail: "the Host header is not one of this agent", Hint: "use http://signet/v1/..."}
}

// ownHost reports whether a program that means this socket would ask for host.
func ownHost(host string) bool {
	switch host {
	case "signet", "localhost", "unix", "socket", "agent", "local", "x", "_", ".":
		return true
	}
	return false
}

// visible is what the caller may know of.
func (q *request) visible() Visible {
	if q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: access.Admin}).Allowed {
		return func(access.Kind, string) bool { return true }
	}
	return func(k access.Kind, name string) bool {
		if k == access.Proxy {
			return q.s.cfg.Policy.Reaches(q.peer, k, name)
		}
		return q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: k, Name: name, Op: "read"}).Allowed
	}
}

// list begins a list of what the caller may know of.
func (q *request) list(event string) {
	q.entry.Event = event
	q.unknown = !q.s.cfg.Policy.Known(q.peer)
}

// known refuses callers whom no rule is about.
func (q *request) known(event string) error {
	q.entry.Event = event
	if q.s.cfg.Policy.Known(q.peer) {
		return nil
	}
	return q.authorizeAdmin(event, access.Admin, "")
}
