package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/signet-agent/signet/upstream/manager"
)

// An expiryWatch asks a Manager whether it has noticed that the certificate of
// an identity is near its end. That is a second signal: the agent reckons with
// the certificate's own dates, and this one holds even where its clock is wrong.
type expiryWatch struct {
	name   string
	share  float64         // spreads hosts over the day
	ready  <-chan struct{} // closed when there is a certificate to ask with
	events func(context.Context) ([]manager.Event, error)
	shelf  shelf
	log    *slog.Logger
	emit   func(event)

	told atomic.Int64 // the end that was last said to be near, in seconds since 1970
}

// expiryCheck is how often the Manager is asked.
const expiryCheck = day

// run asks at the start and then daily, until ctx is done.
func (w *expiryWatch) run(ctx context.Context) error {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil
	}
	if blob, err := w.shelf.Meta(w.meta()); err != nil {
		w.log.Warn("what the Manager noticed is not readable", "identity", w.name, "err", err)
	} else if n, err := strconv.ParseInt(string(blob), 10, 64); err == nil {
		w.told.Store(n)
	}
	for failures := 0; ; {
		wait := expiryCheck - time.Duration(w.share*float64(expiryCheck/10))
		events, err := w.events(ctx)
		if err == nil {
			failures = 0
			w.look(events)
		} else if ctx.Err() == nil {
			failures++
			wait = min(wait, time.Minute+backoff(failures+6, 0))
			w.log.Warn("the Manager was not asked for events", "identity", w.name, "err", err, "retry_in", wait.Round(time.Second).String())
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

func (w *expiryWatch) meta() string { return "manager-event/" + w.name }

// look raises the newest event as one of ours, unless that was done before.
func (w *expiryWatch) look(events []manager.Event) {
	var last manager.Event
	for _, e := range events {
		if e.Type == "certificateExpiring" && e.Expiration.After(last.Expiration) {
			last = e
		}
	}
	end := last.Expiration.Unix()
	if last.Type == "" || end <= w.told.Load() {
		return
	}
	w.log.Warn("the Manager says that the certificate is near its end", "identity", w.name, "not_after", last.Expiration, "message", last.Message)
	w.emit(event{Type: eventCertificateExpiring, Name: w.name, NotAfter: last.Expiration, Source: sourceManager, At: wall()})
	w.told.Store(end)
	if err := w.shelf.SetMeta(w.meta(), []byte(strconv.FormatInt(end, 10))); err != nil {
		w.log.Warn("what the Manager noticed is not kept and will be said again", "identity", w.name, "err", err)
	}
}

// notice is what the Manager says of a certificate with that end, or "".
func (w *expiryWatch) notice(notAfter time.Time) string {
	if notAfter.IsZero() || w.told.Load() != notAfter.Unix() {
		return ""
	}
	return fmt.Sprintf("the Manager says that this certificate ends soon, at %s", notAfter.UTC().Format(time.RFC3339))
}
