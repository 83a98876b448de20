package socket

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// readParams are the parameters of a read.
type readParams struct {
	field   string
	version string        // with wait: the version that the caller has
	wait    time.Duration // 0 if not given
}

func (q *request) readParams() (p readParams, err error) {
	v, err := q.params("field", "version", "wait")
	if v == nil || err != nil {
		return p, err
	}
	p.field, p.version = v.Get("field"), v.Get("version")
	if s := v.Get("wait"); s != "" {
		p.wait, err = time.ParseDuration(s)
		if err != nil || p.wait < 0 {
			return p, invalid("wait is not a duration such as 30s")
		}
		p.wait = min(p.wait, maxWait)
	}
	return p, nil
}

func (q *request) getSecret() error {
	if err := q.authorize("secret.read", access.Action{Kind: access.Secret, Name: q.name}); err != nil {
		return err
	}
	p, err := q.readParams()
	if err != nil {
		return err
	}
	it, err := q.secret(p)
	if err != nil {
		return err
	}
	return q.sendSecret(it, p.field)
}

// sendSecret answers with a secret, or with 304 if the caller has it.
func (q *request) sendSecret(it *secretItem, fieldName string) error {
	tag := etag(it.secret.Version)
	q.w.Header()["Etag"] = []string{tag}
	if v := q.r.Header["If-None-Match"]; v != nil && matches(v[0], tag, it.secret.Version) {
		if err := q.record(http.StatusNotModified); err != nil {
			return err
		}
		q.status = http.StatusNotModified
		q.w.Header()["Cache-Control"] = noStore
		q.w.WriteHeader(q.status)
		return nil
	}
	if accept := q.r.Header["Accept"]; accept != nil && strings.Contains(accept[0], "application/octet-stream") {
		return q.sendField(it, fieldName)
	}
	if fieldName != "" {
		if _, ok := it.secret.Fields.Get(fieldName); !ok {
			return q.noField(fieldName)
		}
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	buf := q.s.body(it.size())
	*buf = it.appendTo(*buf, fieldName, time.Now())
	q.send(http.StatusOK, jsonType, *buf)
	q.s.wipe(buf)
	return nil
}

// sendField answers with the bytes of a field, and of the only one if none is
// named.
func (q *request) sendField(it *secretItem, name string) error {
	if name == "" {
		if len(it.secret.Fields) != 1 {
			return invalid("the secret has several fields; add ?field=NAME")
		}
		name = it.secret.Fields[0].Name
	}
	v, ok := it.secret.Fields.Get(name)
	if !ok {
		return q.noField(name)
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	q.w.Header()["Signet-Stale"] = []string{strconv.FormatBool(it.secret.Stale(time.Now()))}
	v.Use(func(b []byte) { q.send(http.StatusOK, rawType, b) })
	return nil
}

func (q *request) noField(name string) error {
	return &Problem{Code: CodeNotFound, Detail: "secret " + strconv.Quote(q.name) + " has no field " + strconv.Quote(name)}
}

// body is an empty buffer with room for size bytes.
func (s *Server) body(size int) *[]byte {
	buf := s.bodies.Get().(*[]byte)
	*buf = slices.Grow((*buf)[:0], size)
	return buf
}

// wipe clears a buffer that held values before it is used again.
func (s *Server) wipe(buf *[]byte) {
	clear((*buf)[:cap(*buf)])
	if cap(*buf) <= 64<<10 {
		s.bodies.Put(buf)
	}
}

// secret finds what to answer: the published item, after waiting for another
// version if that is asked for, or for the first one if there is none.
func (q *request) secret(p readParams) (*secretItem, error) {
	slot := q.s.secrets.slot(q.name)
	if slot == nil {
		return nil, &Problem{Code: CodeNotFound, Detail: "no secret " + strconv.Quote(q.name) + " is configured"}
	}
	st := slot.now.Load()
	if st.item.usable(q.start) && (p.version == "" || p.wait == 0 || st.item.secret.Version != p.version) {
		return st.item, nil
	}
	if p.wait > 0 {
		q.within(p.wait)
	}
	if !st.item.usable(q.start) {
		if err := q.fetch(st, p.wait); err != nil {
			return nil, err
		}
	}
	if p.wait > 0 && p.version != "" {
		another := func(st *state[secretItem]) bool { return st.item == nil || st.item.secret.Version != p.version }
		if err := await(q, slot, p.wait, another); err != nil {
			return nil, err
		}
	}
	return q.usable(slot.now.Load())
}

// usable is the item if it may be served now, or why there is none.
func (q *request) usable(st *state[secretItem]) (*secretItem, error) {
	name := "secret " + strconv.Quote(q.name)
	switch {
	case st.item.usable(time.Now()):
		return st.item, nil
	case st.item != nil:
		return nil, &Problem{Code: CodeExpired, Detail: name + ": its last value may not be used any more, and there is no newer one"}
	case st.gone != nil:
		return nil, st.gone
	}
	return nil, &Problem{Code: CodeUnavailable, Detail: name + ": not fetched yet", RetryAfter: time.Second}
}

// fetch joins the fetch of an item that cannot be served. A value that was
// refused by the upstream is not asked for again by readers.
func (q *request) fetch(st *state[secretItem], wait time.Duration) error {
	if st.gone != nil {
		return st.gone
	}
	if wait == 0 {
		wait = fetchTimeout
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(q.stopping(), cancel)()
	err := q.s.cfg.Backend.Fetch(ctx, q.name)
	if err == nil {
		return nil
	}
	if st.item != nil {
		// There was a value. Why there is no newer one is the log's matter.
		_, err := q.usable(q.s.secrets.slot(q.name).now.Load())
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Problem{Code: CodeUnavailable, Detail: "secret " + strconv.Quote(q.name) + ": not fetched yet, its upstream has not answered within " + wait.String(),
			Hint: "the fetch goes on: ask again, or wait for it with ?wait=30s; `signet status` says how it stands", RetryAfter: time.Second}
	}
	return err
}

// refused is told that a version did not work. A caller who reports an older
// one than is published is answered at once.
func (q *request) refused() error {
	if err := q.authorize("secret.refused", access.Action{Kind: access.Secret, Name: q.name}); err != nil {
		return err
	}
	var body struct {
		Version string `json:"version"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	if body.Version == "" {
		return invalid("version is missing")
	}
	slot := q.s.secrets.slot(q.name)
	if slot == nil {
		return &Problem{Code: CodeNotFound, Detail: "no secret " + strconv.Quote(q.name) + " is configured"}
	}
	if st := slot.now.Load(); !st.item.usable(q.start) || st.item.secret.Version == body.Version {
		ctx, cancel := context.WithTimeout(q.r.Context(), callTimeout)
		defer cancel()
		q.within(callTimeout)
		if err := q.s.cfg.Backend.Refused(ctx, q.name, body.Version); err != nil {
			return err
		}
	}
	it, err := q.usable(slot.now.Load())
	if err != nil {
		return err
	}
	q.r.Header.Del("If-None-Match") // the whole secret is the answer
	return q.sendSecret(it, "")
}

// listSecrets answers with what the caller may read, without values.
func (q *request) listSecrets() error {
	q.list("secret.list")
	now := time.Now()
	b := []byte(`{"secrets":[`)
	for _, name := range slices.Sorted(maps.Keys(q.s.secrets.all())) {
		if !q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: access.Secret, Name: name}).Allowed {
			continue
		}
		if b[len(b)-1] == '}' {
			b = append(b, ',')
		}
		st := q.s.secrets.slot(name).now.Load()
		b = append(b, '{')
		if st.item != nil {
			b = st.item.appendTimes(st.item.appendNaming(b))
			b = append(b, `,"stale":`...)
			b = strconv.AppendBool(b, st.item.secret.Stale(now))
		} else {
			b = append(b, `"name":`+quote(name)...)
		}
		b = append(b, `,"state":"`+secretState(st, now)+`"}`...)
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	q.send(http.StatusOK, jsonType, append(b, "]}\n"...))
	return nil
}

func secretState(st *state[secretItem], now time.Time) string {
	switch {
	case st.gone != nil:
		return st.gone.public()
	case st.item == nil:
		return "pending"
	case st.item.secret.Expired(now):
		return CodeExpired
	case st.item.secret.Stale(now):
		return "stale"
	}
	return "fresh"
}
