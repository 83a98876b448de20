package ciphertrust_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream/ciphertrust"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// An outage, however long within the idle limit, costs no login: what was got
// with the refresh token of before stays good, and nothing is revoked. (T24)
func TestAnOutageCostsNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.cfg.Idle = 6 * time.Hour
		var logins atomic.Int64
		ask := b.cfg.Password
		b.cfg.Password = func() (secret.Value, error) { logins.Add(1); return ask() }
		l := ciphertrust.NewLogin(b.cfg)
		b.keep(l, 10*time.Minute)
		before := b.live()
		b.server.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 503})
		b.keep(l, 2*time.Hour)
		b.server.Faults.Clear()
		b.keep(l, 2*time.Minute)
		if had := b.keep(l, 30*time.Minute); had != 30 {
			t.Errorf("%d of 30 fetches succeeded afterwards", had)
		}
		after := b.live()
		if logins.Load() != 1 || len(before) != 1 || len(after) != 1 || before[0].ID != after[0].ID {
			t.Errorf("%d logins; tokens before %+v, after %+v", logins.Load(), before, after)
		}
		if all := b.server.Tokens(); len(all) != 1 {
			t.Errorf("%d tokens were made", len(all))
		}
	})
}
