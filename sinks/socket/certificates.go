package socket

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

func (q *request) getCertificate() error {
	if err := q.authorize("certificate.read", access.Action{Kind: access.Certificate, Name: q.name}); err != nil {
		return err
	}
	p, err := q.readParams()
	if err != nil {
		return err
	}
	it, err := q.certificate(p)
	if err != nil {
		return err
	}
	q.w.Header()["Etag"] = it.etag
	if v := q.r.Header["If-None-Match"]; v != nil && matches(v[0], it.etag[0], it.version) {
		if err := q.record(http.StatusNotModified); err != nil {
			return err
		}
		q.status = http.StatusNotModified
		q.w.Header()["Cache-Control"] = noStore
		q.w.WriteHeader(q.status)
		return nil
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	buf := q.s.body(len(it.head) + 16)
	*buf = it.appendTo(*buf)
	q.send(http.StatusOK, jsonType, *buf)
	q.s.wipe(buf)
	return nil
}

// certificate finds what to answer. A certificate can take long to be issued, so
// nobody waits for the first one who does not ask to.
func (q *request) certificate(p readParams) (*certificateItem, error) {
	what := "certificate " + strconv.Quote(q.name)
	slot := q.s.certificates.slot(q.name)
	if slot == nil {
		return nil, &Problem{Code: CodeNotFound, Detail: "no " + what + " is configured"}
	}
	if p.wait > 0 {
		q.within(p.wait)
		another := func(st *state[certificateItem]) bool {
			return st.gone != nil || st.item != nil && st.item.version != p.version
		}
		if err := await(q, slot, p.wait, another); err != nil {
			return nil, err
		}
	}
	st := slot.now.Load()
	switch {
	case st.gone != nil:
		return nil, st.gone
	case st.item == nil:
		return nil, &Problem{Code: CodeUnavailable, Detail: what + ": not issued yet, or its key is away; signet status says which", RetryAfter: time.Second}
	case !time.Now().Before(st.item.cert.NotAfter):
		return nil, &Problem{Code: CodeExpired, Detail: what + ": expired, and not renewed yet"}
	}
	return st.item, nil
}

// listCertificates answers with what the caller may read.
func (q *request) listCertificates() error {
	q.list("certificate.list")
	b := []byte(`{"certificates":[`)
	for _, name := range slices.Sorted(maps.Keys(q.s.certificates.all())) {
		if !q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: access.Certificate, Name: name}).Allowed {
			continue
		}
		if b[len(b)-1] == '}' {
			b = append(b, ',')
		}
		if st := q.s.certificates.slot(name).now.Load(); st.item != nil {
			b = append(b, `{`+st.item.meta+`}`...)
		} else {
			b = append(b, `{"name":`+quote(name)+`}`...)
		}
	}
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	q.send(http.StatusOK, jsonType, append(b, "]}\n"...))
	return nil
}

func (q *request) renew() error { return q.renewal("certificate.renew", false) }

func (q *request) rotate() error { return q.renewal("certificate.rotate", true) }

// renewal returns when the work is done, or has failed.
func (q *request) renewal(event string, rotate bool) error {
	if err := q.authorizeAdmin(event, access.Certificate, q.name); err != nil {
		return err
	}
	var body struct {
		Compromised bool `json:"compromised"`
	}
	if err := q.decode(&body); err != nil {
		return err
	}
	if body.Compromised && !rotate {
		return invalid("a compromised key is replaced by rotate, not by renew")
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	q.within(adminTimeout)
	changed, err := q.s.cfg.Backend.Renew(ctx, q.name, rotate, body.Compromised)
	switch {
	case err != nil:
		return err
	case !changed:
		return q.result("unchanged")
	}
	return q.done()
}

// done answers an action that has no result of its own.
func (q *request) done() error { return q.result("done") }

func (q *request) result(text string) error {
	return q.sendJSON(struct {
		Name   string `json:"name"`
		Result string `json:"result"`
	}{q.name, text})
}
