package hsm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

// sweepAfter is how long nameless remains must have stayed as they are: what
// another program is just generating looks the same, for a moment.
const sweepAfter = 2 * time.Second

// A generation that is cut short can leave objects that carry nothing yet, not
// even their ID. What is known of them is this: before the generation was begun
// there were none on the token, which [Token.begin] writes down; the intent is
// still open; and they can be of a key of its type. Only what all of that is true
// of is removed.

// sweep removes nameless remains that were there when the worker first looked, and
// are still the same some time later. It runs before an intent is fulfilled,
// because afterwards nothing would say whose they are. clean reports whether there
// are none now.
func (t *Token) sweep(ctx context.Context) (clean bool, err error) {
	p, err := t.await(ctx, time.Now().Add(t.cfg.Timeout))
	if err != nil {
		return false, t.fail("sweep", "", err)
	}
	if p.remainsSeen.IsZero() {
		listed, err := t.list(ctx)
		if err != nil {
			return false, err
		}
		p.remains, p.remainsSeen = remains(listed), time.Now()
	}
	ours, err := t.begun(p.serial)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(p.remains, ours) {
		return len(p.remains) == 0, nil
	}
	select {
	case <-time.After(time.Until(p.remainsSeen.Add(sweepAfter))):
	case <-ctx.Done():
		return false, t.fail("sweep", "", fmt.Errorf("%w: %w", ErrDeadline, ctx.Err()))
	}
	listed, err := t.list(ctx)
	if err != nil {
		return false, err
	}
	now := remains(listed)
	var still []uint64
	for _, l := range p.remains {
		same := func(other wire.Loose) bool { return other.Handle == l.Handle && slices.Equal(other.Remains, l.Remains) }
		if ours(l) && slices.ContainsFunc(now, same) {
			still = append(still, l.Handle)
		}
	}
	if len(still) > 0 {
		t.log.Warn("removing nameless remains of an interrupted key generation", "objects", len(still))
		if err := t.destroyLoose(ctx, p, still); err != nil {
			return false, err
		}
	}
	p.remains = slices.DeleteFunc(now, func(l wire.Loose) bool { return slices.Contains(still, l.Handle) })
	return len(p.remains) == 0, nil
}

// destroyLoose removes objects by their handles, which are those of one worker.
func (t *Token) destroyLoose(ctx context.Context, p *process, handles []uint64) error {
	payload, err := wire.Marshal(wire.Destroy{Loose: handles})
	if err == nil {
		_, err = p.call(ctx, p.capacity, t.cfg.Timeout, wire.OpDestroy, payload)
	}
	if err != nil {
		return t.fail("sweep", "", err)
	}
	return nil
}

// begun tells what can be of a generation that was begun on this token and has not
// come to its end.
func (t *Token) begun(serial string) (ours func(wire.Loose) bool, err error) {
	keys, err := t.ledgerKeys()
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k LedgerKey) bool { return k.State != Intended || k.Serial == "" || k.Serial != serial })
	return func(l wire.Loose) bool {
		return slices.ContainsFunc(keys, func(k LedgerKey) bool {
			return slices.ContainsFunc(l.Remains, func(family string) bool { return strings.HasPrefix(string(k.Type), family) })
		})
	}, nil
}

// begin writes down that an intent is going to be fulfilled on this token, if it
// has no nameless remains: what is there of such afterwards is of this generation.
func (t *Token) begin(k LedgerKey, clean bool) (LedgerKey, error) {
	serial := t.Status().Serial
	if k.Serial == serial || !clean {
		return k, nil
	}
	return t.setState("make", k.ID, Intended, func(k *LedgerKey) { k.Serial = serial })
}

func (t *Token) list(ctx context.Context) (*wire.Listed, error) {
	listed := &wire.Listed{}
	return listed, t.call(ctx, request{name: "list", op: wire.OpList}, nil, listed)
}

// remains lists what can be left of an interrupted generation.
func remains(listed *wire.Listed) []wire.Loose {
	return slices.DeleteFunc(slices.Clone(listed.Loose), func(l wire.Loose) bool { return len(l.Remains) == 0 })
}
