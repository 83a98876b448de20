package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// laneHead is the length of a frame's length and operation on a lane.
const laneHead = 4 + 1

// A Lane is a connection for one request at a time: its answer comes next. A
// frame has no id there. Who asks waits for the answer itself: that takes one
// wake-up each way, where a [Conn] with its goroutines takes four.
//
// A Lane is used by one goroutine at a time.
type Lane struct {
	c       io.ReadWriter
	in, out []byte
	have    int // bytes of in that were read of a frame not yet whole
}

// NewLane makes a Lane of one end of a stream.
func NewLane(c io.ReadWriter) *Lane {
	return &Lane{c: c, in: make([]byte, 2048), out: make([]byte, 0, 512)}
}

// Buffer and Have are for who reads from the lane without it: into Buffer,
// between frames. Have is told how much of a frame that the lane shall go on with
// lies there.
func (l *Lane) Buffer() []byte { return l.in }
func (l *Lane) Have(n int)     { l.have = n }

// Send sends one frame with the parts as its payload.
func (l *Lane) Send(op Op, parts ...[]byte) error {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	if n > MaxFrame {
		return fmt.Errorf("wire: message of %d bytes is too long", n)
	}
	l.out = binary.BigEndian.AppendUint32(l.out[:0], uint32(n))
	l.out = append(l.out, byte(op))
	for _, p := range parts {
		l.out = append(l.out, p...)
	}
	_, err := l.c.Write(l.out)
	return err
}

// Receive waits for a frame. Its payload is valid until the next one. If the
// socket has a time limit for reading, idle is asked each time it has passed;
// an error of its ends the waiting, which may be taken up again.
func (l *Lane) Receive(idle func() error) (Op, []byte, error) {
	for {
		if l.have >= laneHead {
			n := binary.BigEndian.Uint32(l.in)
			if n < 1 || n > MaxFrame {
				return 0, nil, fmt.Errorf("%w: length %d", ErrFrame, n)
			}
			end := 4 + int(n)
			if l.have > end {
				return 0, nil, fmt.Errorf("%w: more than one answer", ErrFrame)
			}
			if l.have == end {
				l.have = 0
				return Op(l.in[4]), l.in[laneHead:end], nil
			}
			if len(l.in) < end {
				l.in = append(l.in, make([]byte, end-len(l.in))...)
			}
		}
		n, err := l.c.Read(l.in[l.have:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && idle != nil:
			if err := idle(); err != nil {
				return 0, nil, err
			}
		case err != nil:
			return 0, nil, err
		}
		l.have += n
	}
}
