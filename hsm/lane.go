package hsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/signet-agent/signet/hsm/wire"
)

// laneTick is how often a wait for a signature looks whether the caller still
// waits, and whether the worker is late.
const laneTick = 50 * time.Millisecond

// errLeft: the caller no longer waits.
var errLeft = errors.New("the caller's time is over")

// newLanes makes n lanes to a worker, and what the worker is given of them.
func newLanes(n int) (ours []*wire.Lane, theirs []*os.File, err error) {
	for range n {
		p, in, out, err := newQuietPipe()
		if err != nil {
			closeLanes(ours, theirs)
			return nil, nil, fmt.Errorf("pipes to the worker: %w", err)
		}
		ours, theirs = append(ours, wire.NewLane(p)), append(theirs, in, out)
	}
	return ours, theirs, nil
}

func closeLanes(ours []*wire.Lane, theirs []*os.File) {
	for _, l := range ours {
		l.Close()
	}
	for _, f := range theirs {
		f.Close()
	}
}

// takeLane takes the lane that was used last: its session is the warmest. There
// is one for whoever has room, but none once the process is given up: an answer
// to somebody else may be on its way there.
func (p *process) takeLane() (*wire.Lane, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != nil {
		return nil, lost(p.why)
	}
	l := p.lanes[len(p.lanes)-1]
	p.lanes = p.lanes[:len(p.lanes)-1]
	return l, nil
}

// giveLane puts a lane back that has no answer outstanding, or closes it when
// the process has ended.
func (p *process) giveLane(l *wire.Lane) {
	p.mu.Lock()
	if p.ended {
		l.Close()
	} else {
		p.lanes = append(p.lanes, l)
	}
	p.mu.Unlock()
	p.room.Release(1)
}

// endLanes closes the lanes of a process that has ended.
func (p *process) endLanes() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	closeLanes(p.lanes, nil)
	p.lanes = nil
}

// sign has the worker make one signature. The caller waits no longer than
// deadline. If the worker has not answered in timeout it is killed, even when
// the caller no longer waits: something hangs.
func (p *process) sign(ctx context.Context, deadline time.Time, timeout time.Duration, req *wire.Sign) ([]byte, error) {
	if !p.room.TryAcquire(1) {
		within, cancel := context.WithDeadline(ctx, deadline)
		err := p.room.Acquire(within, 1)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDeadline, err)
		}
	}
	l, err := p.takeLane()
	if err != nil {
		p.room.Release(1)
		return nil, err
	}
	end := time.Now().Add(timeout)
	if err := l.Send(wire.OpSign, req.Head(), req.Data); err != nil {
		p.giveUp(errLost)
	}
	late := func() error {
		if !time.Now().Before(end) {
			p.giveUp(fmt.Errorf("%w: the module took longer than %v", ErrDeadline, timeout))
			return fmt.Errorf("%w: %v", ErrDeadline, timeout)
		}
		return nil
	}
	op, payload, err := l.Receive(func() error {
		if err := late(); err != nil {
			return err
		}
		if ctx.Err() != nil || !time.Now().Before(deadline) {
			return errLeft
		}
		return nil
	})
	switch {
	case err == nil:
		sig, err := p.answered(op, payload)
		p.giveLane(l)
		return sig, err
	case errors.Is(err, errLeft):
		go func() { // the lane is taken until the worker is done with it
			if _, _, err := l.Receive(late); err != nil {
				p.giveUp(errLost)
			}
			p.giveLane(l)
		}()
		return nil, fmt.Errorf("%w: %w", ErrDeadline, err)
	}
	p.giveUp(errLost)
	p.giveLane(l)
	if errors.Is(err, ErrDeadline) {
		return nil, err
	}
	return nil, lost(p.given())
}

// answered takes an answer apart. What it returns is the caller's own.
func (p *process) answered(op wire.Op, payload []byte) ([]byte, error) {
	if op != wire.OpError {
		return append([]byte(nil), payload...), nil
	}
	werr := &wire.Error{}
	if err := wire.Unmarshal(payload, werr); err != nil {
		p.giveUp(err)
		return nil, lost(err)
	}
	if werr.Fatal {
		p.giveUp(fmt.Errorf("%w (%w)", errLost, werr))
	}
	return nil, werr
}
