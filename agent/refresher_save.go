package agent

import (
	"context"
	"time"
)

const (
	// saveAgain is how long after a failure the store is tried again.
	saveAgain = 30 * time.Second
	// forgetAfter is how long after the start the secrets that are not configured
	// any more are removed, if no upstream has answered before.
	forgetAfter = time.Hour
	// saveAtEnd is how long a stop waits for what is not saved yet.
	saveAtEnd = 3 * time.Second
)

// wrote takes up how it went to save what the flight under way has brought. What
// could not be saved is served all the same, and saved later. The caller holds mu.
func (r *refresher) wrote(it *secretItem, err error) {
	if err == nil {
		delete(r.unsaved, it.name)
		return
	}
	r.unsaved[it.name] = true
	r.saveAt = r.clocks.at + saveAgain
	r.log.Error("state of a secret not written; it is tried again", "secret", it.name, "err", err, "hint", hintOf(err))
}

// forget removes the secrets that are not configured any more. It is not done at
// the start: the configuration may be only briefly wrong, while no upstream could
// give again what was removed. The caller holds mu.
func (r *refresher) forget() {
	for _, name := range r.orphans {
		r.log.Info("secret is not configured any more; it is removed from the store", "secret", name)
		r.unsaved[name] = true
	}
	r.orphans = nil
}

// saveDue begins to save what has to be, if it is time. The caller holds mu.
func (r *refresher) saveDue(ctx context.Context) {
	if r.clocks.at >= r.loaded+forgetAfter {
		r.forget()
	}
	if len(r.unsaved) > 0 && r.clocks.at >= r.saveAt && !r.saving {
		r.saving = true
		r.savers.Go(func() { r.saveRest(ctx) })
	}
}

// saveRest saves one after the other what the store does not have as it is held,
// until one fails or ctx is done.
func (r *refresher) saveRest(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saving = true
	var err error
	saved := 0
	for name := range r.unsaved {
		if ctx.Err() != nil {
			break
		}
		it := r.items[name]
		if it != nil && it.flight != nil {
			continue // which saves it, or leaves it for the next time
		}
		if err = r.saveOne(name, it); err != nil {
			break
		}
		saved++
	}
	r.saving, r.saveAt = false, r.clocks.at+saveAgain
	switch {
	case err != nil:
		r.log.Error("state of secrets not written; it is tried again", "secrets", len(r.unsaved), "err", err, "hint", hintOf(err))
	case saved > 0:
		r.log.Info("state of secrets written", "secrets", saved)
	}
}

// saveLast saves what it can when everything stops.
func (r *refresher) saveLast() {
	r.savers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), saveAtEnd)
	defer cancel()
	r.saveRest(ctx)
}

// saveOne saves what is held under a name, or removes what is there of one that
// nothing is held of. The caller holds mu, which is not held meanwhile.
func (r *refresher) saveOne(name string, it *secretItem) error {
	var h *held
	if it != nil {
		h = it.held
	}
	r.mu.Unlock()
	err := r.write(it, name, h)
	r.mu.Lock()
	if err == nil && (it == nil || it.flight == nil && it.held == h) {
		delete(r.unsaved, name)
	} else {
		r.unsaved[name] = true // also where a flight has saved a newer one, and this came last
	}
	return err
}

func (r *refresher) write(it *secretItem, name string, h *held) error {
	if h == nil || h.FetchedAt.IsZero() {
		return r.remove(name)
	}
	blob, _ := h.seal(r.sealer, it.of)
	return r.save(name, blob)
}
