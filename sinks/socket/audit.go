package socket

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// showAudit answers with what verifies the audit, for those who may see the key
// that signs it.
func (q *request) showAudit() error {
	if err := q.authorize("audit.read", access.Action{Kind: access.Key, Name: access.AuditKey, Op: "read"}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), callTimeout)
	defer cancel()
	q.within(callTimeout)
	info, err := q.s.cfg.Backend.Audit(ctx)
	if err != nil {
		return err
	}
	return q.sendJSON(info)
}

// auditLines answers administrators with the lines of the audit: the last ones with
// ?last=N, else all, or with ?after=HASH those of the files that come after it. They
// are read while they are sent, by a few callers at once and as fast as those take
// them.
func (q *request) auditLines() error {
	if err := q.authorizeAdmin("audit.lines", access.Key, access.AuditKey); err != nil {
		return err
	}
	v, err := q.params("last", "after")
	if err != nil {
		return err
	}
	last := -1
	if s := v.Get("last"); s != "" {
		if last, err = strconv.Atoi(s); err != nil || last < 0 {
			return invalid("last is not a number of lines")
		}
	}
	select {
	case q.s.reading <- struct{}{}:
		defer func() { <-q.s.reading }()
	default:
		return &Problem{Code: CodeBusy, Detail: "the audit is being read by others", RetryAfter: time.Second}
	}
	lines, err := q.s.cfg.Backend.AuditLines(last, v.Get("after"))
	if err != nil {
		return err
	}
	defer lines.Close()
	if err := q.record(http.StatusOK); err != nil {
		return err
	}
	q.send(http.StatusOK, linesType, nil)
	if q.r.Method == http.MethodHead {
		return nil
	}
	return q.stream(lines)
}

// stream sends what r has. A caller who does not take it, or takes too long for all
// of it, is left; so is every caller when the agent stops.
func (q *request) stream(r io.Reader) error {
	ctx, cancel := context.WithTimeout(q.r.Context(), adminTimeout)
	defer cancel()
	defer context.AfterFunc(q.stopping(), cancel)()
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		q.within(0)
		if _, err := q.w.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			q.s.cfg.Log.Warn("lines of the audit not sent", "err", err)
			return err
		}
	}
	return ctx.Err()
}
