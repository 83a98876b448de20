package hsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/hsm/pipe"
	"github.com/signet-agent/signet/hsm/wire"
)

// errLeft: the caller no longer waits.
var errLeft = errors.New("the caller's time is over")

// A lane is our end of one to the worker. It is used by one goroutine at a time.
type lane struct {
	*wire.Lane
	pipe *pipe.Pipe
}

// newLanes makes n lanes to a worker, and what the worker is given of them.
func newLanes(n int) (ours []*lane, theirs []*os.File, err error) {
	for range n {
		p, in, out, err := pipe.New()
		if err != nil {
			closeLanes(ours, theirs)
			return nil, nil, fmt.Errorf("pipes to the worker: %w", err)
		}
		ours, theirs = append(ours, &lane{wire.NewLane(p), p}), append(theirs, in, out)
	}
	return ours, theirs, nil
}

func closeLanes(ours []*lane, theirs []*os.File) {
	for _, l := range ours {
		l.pipe.Close()
	}
	for _, f := range theirs {
		f.Close()
	}
}

// wait waits for the answer until then, or until about pipe.Tick after ctx is done.
func (l *lane) wait(ctx context.Context, until time.Time) (wire.Op, []byte, error) {
	l.pipe.Until(until)
	return l.Receive(func() error {
		if ctx.Err() != nil || !time.Now().Before(until) {
			return errLeft
		}
		return nil
	})
}

// takeLane takes the lane that was used last: its session is the warmest. There
// is one for whoever has room, but none once the process is given up.
func (p *process) takeLane(ctx context.Context, deadline time.Time) (*lane, error) {
	if !p.room.TryAcquire(1) {
		within, cancel := context.WithDeadline(ctx, deadline)
		err := p.room.Acquire(within, 1)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDeadline, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != nil {
		p.room.Release(1)
		return nil, lost(p.why)
	}
	l := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return l, nil
}

// giveLane puts a lane back that has no answer outstanding.
func (p *process) giveLane(l *lane) {
	p.mu.Lock()
	if p.why == nil {
		p.free = append(p.free, l)
	}
	p.mu.Unlock()
	p.room.Release(1)
}

// sign has the worker make one signature. The caller waits no longer than
// deadline. If the worker has not answered in timeout it is killed, even when
// the caller no longer waits: something hangs.
func (p *process) sign(ctx context.Context, deadline time.Time, timeout time.Duration, req *wire.Sign) ([]byte, error) {
	l, err := p.takeLane(ctx, deadline)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(timeout)
	l.pipe.Until(end)
	if err := l.Send(wire.OpSign, req.Head(), req.Data); err != nil {
		return nil, p.broken(l, err, timeout)
	}
	op, payload, err := l.wait(ctx, deadline)
	switch {
	case err == nil:
		sig, err := p.answered(op, payload)
		p.giveLane(l)
		return sig, err
	case errors.Is(err, errLeft):
		go func() { // the lane is taken until the worker is done with it
			if _, _, err := l.wait(context.Background(), end); err != nil {
				_ = p.broken(l, err, timeout)
				return
			}
			p.giveLane(l)
		}()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrDeadline, ctx.Err())
		}
		return nil, fmt.Errorf("%w: %v", ErrDeadline, timeout)
	}
	return nil, p.broken(l, err, timeout)
}

// broken gives up the process of a lane that is of no more use, and says why. When
// the other side has closed, how it ended is known in a moment.
func (p *process) broken(l *lane, err error, timeout time.Duration) error {
	switch {
	case errors.Is(err, errLeft), errors.Is(err, os.ErrDeadlineExceeded):
		p.giveUp(fmt.Errorf("%w: the module took longer than %v", ErrDeadline, timeout))
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		_ = p.cmd.Process.Kill()
		select {
		case <-p.done:
		case <-time.After(2 * drainTimeout):
		}
		p.giveUp(errLost)
	default:
		p.giveUp(err)
	}
	p.giveLane(l)
	return lost(p.given())
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
