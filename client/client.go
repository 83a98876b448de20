package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
)

// DefaultSocket is where an agent listens that was not told otherwise.
const DefaultSocket = "/run/signet/signet.sock"

const (
	defaultTimeout = 15 * time.Second
	openPatience   = 5 * time.Second
	maxBody        = 16 << 20 // of any answer but a proxied one
)

// A Client speaks to the agent on this host. The zero Client speaks to the
// usual one. Its fields must not be changed once it is in use, and it must not
// be copied.
type Client struct {
	// Socket is the path of the agent's socket. If empty, it is that of the
	// environment variable SIGNET_SOCKET, and without one DefaultSocket.
	Socket string
	// Timeout is how long a call may take that asks the agent for something it
	// has. If 0, it is 15 seconds. Calls that make the agent work (Enroll, Renew,
	// Rotate, Login, Logout, Doctor) are bounded by their context alone.
	Timeout time.Duration
	// Patience is how long a call waits for an agent that does not listen, such
	// as one that restarts. If 0, the call fails at once.
	Patience time.Duration

	once sync.Once
	http *http.Transport
	life context.Context // of what runs in the background, until Close
	end  context.CancelFunc

	kept   sync.Map           // name -> *keptSecret
	flight singleflight.Group // of the reads that fill kept
	mu     sync.Mutex         // orders follow.Go before follow.Wait
	follow sync.WaitGroup
}

// Open returns a Client for the usual agent that waits a few seconds for one
// that restarts. It does not fail when the agent is not there: calls do.
func Open() *Client { return &Client{Patience: openPatience} }

// Close ends what the Client does in the background and returns when it has
// ended. Nothing may be called after it.
func (c *Client) Close() error {
	c.start()
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.follow.Wait()
	c.http.CloseIdleConnections()
	return nil
}

// background runs f until Close.
func (c *Client) background(f func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() == nil {
		c.follow.Go(func() { f(c.life) })
	}
}

// SocketPath is the path of the socket that the Client uses.
func (c *Client) SocketPath() string {
	if c.Socket != "" {
		return c.Socket
	}
	if path := os.Getenv("SIGNET_SOCKET"); path != "" {
		return path
	}
	return DefaultSocket
}

// start makes what the zero Client lacks.
func (c *Client) start() {
	c.once.Do(func() {
		path := c.SocketPath()
		c.life, c.end = context.WithCancel(context.Background())
		c.http = &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, path) },
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		}
	})
}

// dial connects to the socket. While nobody listens it goes on trying until
// Patience is over.
func (c *Client) dial(ctx context.Context, path string) (net.Conn, error) {
	until := time.Now().Add(c.Patience)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		away := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
		if !away || time.Now().Add(pause).After(until) || !sleep(ctx, pause) {
			return conn, err
		}
	}
}

// A call is one request to the agent.
type call struct {
	method, path string // path is escaped
	query        url.Values
	header       http.Header
	body         any // made JSON of, if not nil
	what         string
	again        bool // may be repeated although it is not a GET
}

// do makes a call and returns an answer of status 2xx or 304, whose body the
// caller closes. Everything else is an *Error.
func (c *Client) do(ctx context.Context, k call) (*http.Response, error) {
	c.start()
	var body io.Reader
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, &Error{What: k.what, Code: Invalid, Err: err}
		}
		body = bytes.NewReader(b)
	}
	u := "http://signet" + k.path
	if len(k.query) > 0 {
		u += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u, body)
	if err != nil {
		return nil, &Error{What: k.what, Code: Invalid, Err: err}
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if k.again {
		// An agent that restarts closes idle connections; this lets net/http
		// use a new one. An empty value is not sent.
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return nil, c.unreached(ctx, k.what, err)
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		defer resp.Body.Close()
		return nil, problem(k.what, resp)
	}
	return resp, nil
}

// unreached is the error of a call that has no answer.
func (c *Client) unreached(ctx context.Context, what string, err error) error {
	e := &Error{What: what, Code: Unavailable, Err: err}
	path := c.SocketPath()
	switch {
	case ctx.Err() != nil:
		e.Err = fmt.Errorf("no answer from the agent at %s: %w", path, context.Cause(ctx))
	case errors.Is(err, syscall.ENOENT):
		e.Err = fmt.Errorf("connect %s: %w", path, syscall.ENOENT)
		e.Hint = "is the agent running? see `systemctl status signet`, or name another socket with --socket or SIGNET_SOCKET"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Err = fmt.Errorf("connect %s: %w", path, syscall.ECONNREFUSED)
		e.Hint = "the agent has stopped; see `systemctl status signet`"
	case errors.Is(err, syscall.EACCES):
		e.Code, e.Err = Denied, fmt.Errorf("connect %s: %w", path, syscall.EACCES)
		e.Hint = "the socket's mode keeps this user out; see `socket: mode:` in the agent's configuration"
	default:
		e.Err = fmt.Errorf("agent at %s: %w", path, err)
	}
	return e
}

// read makes a call and decodes its answer into out, unless that is nil.
func (c *Client) read(ctx context.Context, k call, out any) error {
	resp, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := c.body(ctx, k, resp)
	if err != nil || out == nil || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		// The error of the decoder may quote what it read, and so does not go on.
		return &Error{What: k.what, Code: Unavailable, Status: resp.StatusCode, Err: errNotUnderstood}
	}
	return nil
}

// errNotUnderstood is an answer that this package cannot read.
var errNotUnderstood = errors.New("the agent's answer is not the JSON that this version expects")

// body reads the whole of an answer.
func (c *Client) body(ctx context.Context, k call, resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, c.unreached(ctx, k.what, err)
	}
	if len(b) > maxBody {
		return nil, &Error{What: k.what, Code: Unavailable, Status: resp.StatusCode, Err: errors.New("the agent's answer is too long")}
	}
	return b, nil
}

// bounded is ctx with the Client's Timeout.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout())
}

func (c *Client) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

// get reads what the agent has at path.
func (c *Client) get(ctx context.Context, what, path string, out any) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return c.read(ctx, call{method: http.MethodGet, path: path, what: what}, out)
}

// sleep waits for d and reports whether ctx is still going.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
