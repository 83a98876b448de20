package hsm

import (
	"context"
	"fmt"
	"slices"

	"github.com/signet-agent/signet/hsm/wire"
)

// A token is called in the ledger as in the configuration, where it may be given
// another name. What stays is the serial number in the rows of its keys. That alone
// does not do, because some modules give all their tokens the same: one of the keys
// has to be there.

// adopt writes the name of this token into the rows that have its serial number under
// another name, if one of the keys there is on it.
func (t *Token) adopt(ctx context.Context, p *process, o *wire.Opened) error {
	all, err := t.ledgerAll()
	if err != nil {
		return err
	}
	former := map[string][]LedgerKey{}
	for _, k := range all {
		if k.Token != t.cfg.Name && k.Serial != "" && k.Serial == o.Serial && k.State != Destroyed {
			former[k.Token] = append(former[k.Token], k)
		}
	}
	if len(former) == 0 {
		return nil
	}
	listed := wire.Listed{}
	if err := t.ask(ctx, p, wire.OpList, nil, &listed); err != nil {
		return t.fail("list", "", err)
	}
	there := present(&listed)
	for name, keys := range former {
		if !slices.ContainsFunc(keys, func(k LedgerKey) bool { return there[k.ID] }) {
			continue
		}
		for _, k := range keys {
			if _, err := t.rename(k); err != nil {
				return err
			}
		}
		t.log.Warn("token known by another name; its keys are taken over", "before", name, "serial", o.Serial, "keys", len(keys))
	}
	return nil
}

// rename makes a row that of this token, unless it has changed meanwhile. A number
// that this token has given already is given anew.
func (t *Token) rename(was LedgerKey) (LedgerKey, error) {
	t.ledger.Lock()
	defer t.ledger.Unlock()
	all, err := t.ledgerAll()
	if err != nil {
		return was, err
	}
	if !slices.Contains(all, was) {
		return was, t.fail("take over", was.String(), fmt.Errorf("%w: it has changed meanwhile", ErrState))
	}
	k := was
	k.Token = t.cfg.Name
	if slices.ContainsFunc(all, func(o LedgerKey) bool {
		return o.Token == k.Token && o.Name == k.Name && o.Generation == k.Generation
	}) {
		k.Generation = nextGeneration(all, k.Name)
	}
	return k, t.save("take over", k)
}
