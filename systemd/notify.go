package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how the service stands (sd_notify). What
// it sends arrives in order. Where there is no service manager it does nothing,
// and so does a nil Notifier.
type Notifier struct {
	log *slog.Logger

	mu       sync.Mutex
	stopping bool   // guarded by mu
	status   string // last sent; guarded by mu
}

// NewNotifier is a Notifier for the service manager that NOTIFY_SOCKET names.
// What cannot be sent is logged: it is never a reason to stop working.
func NewNotifier(log *slog.Logger) *Notifier { return &Notifier{log: log} }

// Ready says that the service has started, or that a reload is complete.
func (n *Notifier) Ready() { n.send(daemon.SdNotifyReady) }

// Reloading says that a reload has begun. It has to be the first thing that is
// done about SIGHUP: otherwise `systemctl reload` returns too early. Ready ends
// it.
func (n *Notifier) Reloading() {
	n.send(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Status shows a line in `systemctl status`. The same line is sent only once.
func (n *Notifier) Status(line string) {
	if n == nil {
		return
	}
	line = strings.ReplaceAll(line, "\n", " ")
	n.mu.Lock()
	defer n.mu.Unlock()
	if line != n.status {
		n.status = line
		n.sendLocked("STATUS=" + line)
	}
}

// Stopping says that the service ends. Nothing that is said later is sent, so
// that no late Ready or Status makes it look alive again.
func (n *Notifier) Stopping() {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sendLocked(daemon.SdNotifyStopping)
	n.stopping = true
}

// Watchdog keeps the service manager from ending the service for as long as
// alive reports that it is, and returns nil when ctx is done. It asks twice in
// each WatchdogSec, or not at all where the unit has none. An alive that hangs
// is not alive.
func (n *Notifier) Watchdog(ctx context.Context, alive func() bool) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if n == nil || limit == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		if alive() {
			n.ping()
		} else {
			n.log.Error("not alive: the watchdog is not told so", "watchdog", limit)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// ping goes on while the service stops: the watchdog counts then too.
func (n *Notifier) ping() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.transmit(daemon.SdNotifyWatchdog)
}

func (n *Notifier) send(state string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sendLocked(state)
}

func (n *Notifier) sendLocked(state string) {
	if !n.stopping {
		n.transmit(state)
	}
}

func (n *Notifier) transmit(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		what, _, _ := strings.Cut(state, "=")
		n.log.Warn("service manager not told", "what", what, "err", err)
	}
}
