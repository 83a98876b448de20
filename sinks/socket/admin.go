package socket

import (
	"context"
	"net/http"
	"net/url"
	"os/user"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
)

// credentials are a name and a password in a body.
type credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// enroll registers an identity and returns when that is done.
func (q *request) enroll() error {
	if err := q.authorizeAdmin("identity.enroll", access.Certificate, q.name); err != nil {
		return err
	}
	var body credentials
	if err := q.decode(&body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	if err := q.s.cfg.Backend.Enroll(ctx, q.name, body.Username, secret.New([]byte(body.Password))); err != nil {
		return err
	}
	return q.done()
}

// loginBody is the body of a login.
type loginBody struct {
	Username     string `json:"username"`
	Password     string `json:"password"`
	LifeSeconds  int64  `json:"life_seconds"`
	URL          string `json:"url"`
	RefreshToken string `json:"refresh_token"`
	ClientID     string `json:"client_id"`
	Share        bool   `json:"share"`
}

// maxLogin is longer than any login lasts.
const maxLogin = 100 * 365 * 24 * time.Hour

// login begins a session at an upstream, in place of the one of before. The
// answer holds a refresh token only if it was asked for.
func (q *request) login() error {
	if err := q.authorizeAdmin("upstream.login", access.Token, q.name); err != nil {
		return err
	}
	var body loginBody
	if err := q.decode(&body); err != nil {
		return err
	}
	if body.LifeSeconds < 0 || body.LifeSeconds > int64(maxLogin/time.Second) {
		return invalid("life_seconds is not a number of seconds that a login can last")
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	got, err := q.s.cfg.Backend.Login(ctx, q.name, LoginRequest{
		Username: body.Username, Password: secret.New([]byte(body.Password)), Life: time.Duration(body.LifeSeconds) * time.Second,
		URL: body.URL, RefreshToken: secret.New([]byte(body.RefreshToken)), ClientID: body.ClientID, Share: body.Share,
	})
	if err != nil {
		return err
	}
	answer := struct {
		Name         string  `json:"name"`
		Result       string  `json:"result"`
		Username     string  `json:"username,omitempty"`
		URL          string  `json:"url,omitempty"`
		Until        *string `json:"until,omitempty"`
		RefreshToken string  `json:"refresh_token,omitempty"`
		ClientID     string  `json:"client_id,omitempty"`
	}{Name: q.name, Result: "done", Username: got.Username, URL: got.URL}
	if !got.Until.IsZero() {
		at := stamp(got.Until)
		answer.Until = &at
	}
	if body.Share {
		answer.RefreshToken, answer.ClientID = string(got.RefreshToken.Reveal()), got.ClientID
	}
	return q.sendJSON(answer)
}

func (q *request) logout() error {
	if err := q.authorizeAdmin("upstream.logout", access.Token, q.name); err != nil {
		return err
	}
	if err := q.decode(&struct{}{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	if err := q.s.cfg.Backend.Logout(ctx, q.name); err != nil {
		return err
	}
	return q.done()
}

// showStatus tells administrators everything, and others what they may read.
func (q *request) showStatus() error {
	q.always = true // it says why nothing can be recorded, and holds no value
	if err := q.known("status.read"); err != nil {
		return err
	}
	return q.sendJSON(q.s.cfg.Backend.Status(q.visible()))
}

func (q *request) plan() error {
	if err := q.authorizeAdmin("plan.read", access.Admin, ""); err != nil {
		return err
	}
	return q.sendJSON(q.s.cfg.Backend.Plan())
}

func (q *request) doctor() error {
	q.always = true // as showStatus
	if err := q.authorizeAdmin("doctor.run", access.Admin, ""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	return q.sendJSON(q.s.cfg.Backend.Doctor(ctx))
}

// objects lists what is on the tokens and is not the agent's.
func (q *request) objects() error {
	if err := q.authorizeAdmin("objects.read", access.Admin, ""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	found, err := q.s.cfg.Backend.Objects(ctx)
	if err != nil {
		return err
	}
	return q.sendJSON(found)
}

// rotateSealingKey returns when the new key is in use.
func (q *request) rotateSealingKey() error {
	if err := q.authorizeAdmin("sealing-key.rotate", access.Admin, ""); err != nil {
		return err
	}
	var body struct {
		DiscardSealed bool `json:"discard_sealed"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	if err := q.s.cfg.Backend.RotateSealingKey(ctx, body.DiscardSealed); err != nil {
		return err
	}
	return q.done()
}

// clearPINGuard lets a refused PIN be tried once more, and returns when it was.
func (q *request) clearPINGuard() error {
	if err := q.authorizeAdmin("hsm.clear-pin-guard", access.Admin, q.name); err != nil {
		return err
	}
	if err := q.decode(&struct{}{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	if err := q.s.cfg.Backend.ClearPINGuard(ctx, q.name); err != nil {
		return err
	}
	return q.done()
}

// healthz says that the process answers. Anyone may ask.
func (q *request) healthz() error {
	q.send(http.StatusOK, jsonType, []byte(`{"status":"ok"}`+"\n"))
	return nil
}

// readyz says whether the agent can do its work. Anyone may ask; why it cannot
// is told to callers that policy knows.
func (q *request) readyz() error {
	q.recorded = true // it is no access
	err := q.s.cfg.Backend.Ready()
	if err == nil {
		q.send(http.StatusOK, jsonType, []byte(`{"status":"ready"}`+"\n"))
		return nil
	}
	if !q.s.cfg.Policy.Known(q.peer) {
		return &Problem{Code: CodeUnavailable, Detail: "the agent is not ready"}
	}
	if p, ok := asProblem(err); ok {
		return &Problem{Code: CodeUnavailable, Detail: "not ready: " + p.Detail, Hint: p.Hint}
	}
	return &Problem{Code: CodeUnavailable, Detail: "not ready: " + err.Error()}
}

// metrics tell a caller of what it may know of, as their labels are names of items.
// That they were read is no access, as no value is in them.
func (q *request) metrics() error {
	q.always = true
	if err := q.known("metrics.read"); err != nil {
		return err
	}
	if q.s.cfg.Metrics == nil {
		return &Problem{Code: CodeNotFound, Detail: "there are no metrics"}
	}
	visible := q.visible()
	if q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: access.Admin, Op: "metrics"}).Allowed {
		visible = func(access.Kind, string) bool { return true }
	}
	q.status = http.StatusOK
	q.s.cfg.Metrics(visible).ServeHTTP(q.w, q.r)
	return nil
}

// explanation is the answer to a question about the policy.
type explanation struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Allowed bool   `json:"allowed"`
	Rule    int    `json:"rule"` // -1: none
	By      string `json:"by,omitempty"`
	Text    string `json:"text"`
}

// explain says which rule decides for a caller who is described in the query:
// uid and unit, the name, and optionally kind, op and path. Without a kind it
// answers for each.
func (q *request) explain() error {
	if err := q.authorizeAdmin("policy.explain", access.Admin, ""); err != nil {
		return err
	}
	v, err := url.ParseQuery(q.r.URL.RawQuery)
	if err != nil {
		return invalid("the query is not encoded correctly")
	}
	peer, err := described(v)
	if err != nil {
		return err
	}
	kinds := []access.Kind{access.Secret, access.Certificate, access.Key, access.Token, access.Proxy, access.Admin}
	if s := v.Get("kind"); s != "" {
		k, ok := access.ParseKind(s)
		if !ok {
			return invalid("there is no kind " + strconv.Quote(s))
		}
		kinds = []access.Kind{k}
	}
	answers := []explanation{}
	for _, k := range kinds {
		op := v.Get("op")
		if k == access.Key && op == "" {
			op = "sign"
		}
		if k == access.Proxy && op == "" {
			op = http.MethodGet
		}
		answers = append(answers, q.s.explanation(peer, access.Action{Kind: k, Name: v.Get("name"), Op: op, Path: v.Get("path")}))
	}
	return q.sendJSON(struct {
		Decisions []explanation `json:"decisions"`
	}{answers})
}

// explanation is what the socket would decide. A path at an upstream is taken as
// it would be sent.
func (s *Server) explanation(peer *access.Peer, a access.Action) explanation {
	if a.Kind == access.Proxy && a.Path != "" {
		path, err := access.CleanPath(a.Path)
		if err != nil {
			return explanation{Kind: a.Kind.String(), Name: a.Name, Rule: -1, Text: "never forwarded, whoever asks: " + err.Error()}
		}
		a.Path = path
	}
	d := s.cfg.Policy.Decide(peer, a)
	return explanation{a.Kind.String(), a.Name, d.Allowed, d.Rule, d.By, d.String()}
}

// described is a caller with the groups that the user database gives it.
func described(v url.Values) (*access.Peer, error) {
	// Nobody's numbers, so that asking about a unit alone matches no user.
	p := &access.Peer{UID: 1<<32 - 1, GID: 1<<32 - 1, Unit: v.Get("unit")}
	text := v.Get("uid")
	if text == "" && p.Unit == "" {
		return nil, invalid("uid or unit is missing")
	}
	if text == "" {
		return p, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, invalid("uid is not a number")
	}
	p.UID = uint32(n)
	u, err := user.LookupId(text)
	if err != nil {
		return p, nil // a uid without a name has no groups
	}
	groups, err := u.GroupIds()
	if err != nil {
		return p, nil
	}
	for i, g := range append([]string{u.Gid}, groups...) {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			if i == 0 {
				p.GID = uint32(n)
			}
			p.Groups = append(p.Groups, uint32(n))
		}
	}
	return p, nil
}
