package agent

import (
	"fmt"
	"maps"
	"net"
	"os"
	"slices"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// makeSinks makes what hands items to apps. Nothing is written or listened on
// before run.
func (a *Agent) makeSinks() error {
	policy, err := access.Compile(rules(a.cfg.Policy))
	if err != nil {
		return err
	}
	a.signer = &auditSigner{token: a.home, path: a.cfg.AuditPath()}
	if err := a.openAudit(); err != nil {
		return err
	}
	limit := a.cfg.Socket.RateLimit
	a.socket = socket.New(socket.Config{
		Backend: backend{a}, Policy: policy, Audit: a.audit, Log: a.log,
		Secrets:      slices.Collect(maps.Keys(a.cfg.Secrets)),
		Certificates: append(slices.Collect(maps.Keys(a.cfg.Certificates)), slices.Collect(maps.Keys(a.cfg.Identities))...),
		Limit:        access.Limit{PerSecond: float64(limit.PerSecond), Burst: float64(limit.Burst)},
		Metrics:      a.metrics.handlerFor,
		Observe:      (&answerCounter{vec: a.metrics.socketRequests}).count,
	})
	if err := a.makeCredentials(policy); err != nil {
		return err
	}
	return a.makeFiles()
}

// rules are the policy of the configuration as access takes it.
func rules(rs []config.Rule) []access.Rule {
	out := make([]access.Rule, len(rs))
	for i, r := range rs {
		out[i] = access.Rule{Callers: access.Callers(r.Callers), Allow: access.Allow(r.Allow)}
	}
	return out
}

// listen makes the agent's socket, or takes the one that systemd made.
func (a *Agent) listen() (net.Listener, error) {
	if a.opt.Listener != nil {
		return a.opt.Listener, nil
	}
	if err := os.MkdirAll(a.cfg.RuntimePath(), 0o755); err != nil {
		return nil, fmt.Errorf("runtime_dir: %w", err)
	}
	return socket.Listen(a.cfg.SocketPath(), os.FileMode(a.cfg.Socket.Mode.Or(0o666)))
}
