package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// MaxFrame is the longest frame that is accepted. A listing of some ten
// thousand objects fits; a length beyond it is noise on the line.
const MaxFrame = 16 << 20

// frameHead is the length of id and operation.
const frameHead = 8 + 1

// ErrFrame means that what was read is no frame. The connection is of no
// further use.
var ErrFrame = errors.New("wire: malformed frame")

// A Frame is one message.
type Frame struct {
	ID      uint64
	Op      Op
	Payload []byte
}

// A Conn sends and receives frames. Send may be called from several
// goroutines, Receive from one.
type Conn struct {
	w io.Writer
	r *bufio.Reader

	mu       sync.Mutex
	out      []byte // frames not yet written; guarded by mu
	spare    []byte // the buffer written last, for reuse; guarded by mu
	flushing bool   // some caller of Send is writing; guarded by mu
	err      error  // of a write; guarded by mu
	idle     *sync.Cond
}

// NewConn makes a Conn of a connected stream.
func NewConn(rw io.ReadWriter) *Conn {
	c := &Conn{w: rw, r: bufio.NewReaderSize(rw, 64<<10)}
	c.idle = sync.NewCond(&c.mu)
	return c
}

// Send sends one frame. While one caller writes, the frames of others gather
// and go out with the next write: under load, many frames cost one system call.
// A nil error then means that the frame will be written, not that it was.
func (c *Conn) Send(id uint64, op Op, payload []byte) error {
	if len(payload) > MaxFrame-frameHead {
		return fmt.Errorf("wire: message of %d bytes is too long", len(payload))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(frameHead+len(payload)))
	c.out = binary.BigEndian.AppendUint64(c.out, id)
	c.out = append(c.out, byte(op))
	c.out = append(c.out, payload...)
	if c.flushing {
		return nil
	}
	c.flushing = true
	for len(c.out) > 0 && c.err == nil {
		b := c.out
		c.out = c.spare[:0]
		c.mu.Unlock()
		_, err := c.w.Write(b)
		c.mu.Lock()
		c.spare, c.err = b, err
	}
	c.flushing = false
	c.idle.Broadcast()
	return c.err
}

// Flush waits until everything that was sent has been written.
func (c *Conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.flushing {
		c.idle.Wait()
	}
}

// SendJSON sends v as JSON; a nil v is an empty payload.
func (c *Conn) SendJSON(id uint64, op Op, v any) error {
	b, err := Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(id, op, b)
}

// Receive waits for the next frame. Its payload belongs to the caller.
func (c *Conn) Receive() (Frame, error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHead || n > MaxFrame {
		return Frame{}, fmt.Errorf("%w: length %d", ErrFrame, n)
	}
	f := Frame{ID: binary.BigEndian.Uint64(head[4:]), Op: Op(head[12]), Payload: make([]byte, n-frameHead)}
	if _, err := io.ReadFull(c.r, f.Payload); err != nil {
		return Frame{}, fmt.Errorf("%w: cut short: %w", ErrFrame, err)
	}
	return f, nil
}

// Marshal encodes a message; nil becomes nothing.
func Marshal(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}

// Unmarshal decodes a message; nothing leaves v as it is.
func Unmarshal(b []byte, v any) error {
	if len(b) == 0 || v == nil {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	return nil
}
