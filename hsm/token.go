package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/signet-agent/signet/hsm/wire"
	"github.com/signet-agent/signet/internal/tokenuri"
)

const (
	defaultSessions = 8
	defaultTimeout  = 10 * time.Second
)

// Config says which token is meant and how to use it. Its zero fields mean what
// their comments say.
type Config struct {
	// Name is what the configuration calls the token. If empty, "default".
	Name string
	// Worker is the path of signet-hsm. If empty, it is beside the program.
	Worker string
	// Env is added to the environment that the worker inherits, but for the
	// variables named in Without: those with the PINs of other tokens.
	Env, Without []string
	// Module is the path of the vendor's PKCS#11 library. It may come from URI.
	Module string
	// InitArgs is a text that the library is initialised with. Most need none;
	// the one of NSS is told by it where its database is.
	InitArgs string
	// Label, Serial and URI (RFC 7512) choose the token. What is given must
	// match; exactly one token may.
	Label, Serial, URI string
	// PIN says where the worker reads the PIN. It may come from URI.
	PIN PINSource
	// Sessions is how many sessions may be open on the token, 4 at least. If 0, it
	// is 8.
	Sessions int
	// Network lets the library use the network, as those of network HSMs must.
	Network bool
	// NoSandbox lets the library do all that the agent may.
	NoSandbox bool
	// Lenient uses keys that cannot be read but that the module would wrap for
	// another key, or does not call its own. Without it they are refused. It is
	// for modules in software, such as that of NSS.
	Lenient bool
	// Timeout is how long a call into the library may take. If 0, it is 10 s.
	Timeout time.Duration
	// Ledger remembers the keys. It is required.
	Ledger Ledger
	// Guard remembers refused PINs. If nil, they are forgotten with the process.
	Guard Guard
	// Log is where changes are told. If nil, nowhere.
	Log *slog.Logger
	// Observe, if set, is told of every call on the token.
	Observe func(operation string, d time.Duration, err error)
}

// A PINSource says where the worker, never the daemon, reads the PIN: exactly one
// of a file, a systemd credential, and an environment variable.
type PINSource struct {
	File, Credential, Env string
}

// A Token is one PKCS#11 token. It is usable from the start; calls fail until
// Run has opened it, and when it is closed.
type Token struct {
	cfg      Config
	selector wire.Selector
	pin      wire.PINSource
	cfgErr   error // keeps the token closed for good
	log      *slog.Logger
	quick    []byte // the key of its quick PIN digests

	ledger  sync.Mutex          // held while the ledger is read and then changed
	making  *semaphore.Weighted // held by Ensure and Destroy: one at a time
	sealing *semaphore.Weighted // held while the sealing key is chosen or made
	ready   chan struct{}
	kick    chan struct{} // tells Run to try again now

	mu      sync.Mutex // guards what follows
	cur     *process   // the open worker; nil while there is none
	err     error      // why the token cannot be opened; nil while a worker is being replaced
	opened  *wire.Opened
	status  Status
	changed chan struct{}        // closed and made anew at each change
	trusted map[string]*Key      // checked in this process, by ID
	looked  map[string]time.Time // when a key that was missing was last looked for, by ID

	good []byte // quick digest of the PIN that was last accepted; owned by Run
	// unknown: how the last try of the PIN ended. The worker died over it, or the
	// module's answer says nothing about the PIN.
	unknown atomic.Bool
	// pardon: an operator wants the PIN tried again. Which token refused it is known
	// when there is one.
	pardon atomic.Bool
}

// New makes a Token. It does nothing yet; what is wrong with the Config is told
// by Run and by every call.
func New(cfg Config) *Token {
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = defaultSessions
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Guard == nil {
		cfg.Guard = &MemoryGuard{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Token{
		cfg: cfg, log: cfg.Log.With("hsm", cfg.Name), quick: make([]byte, 32),
		making: semaphore.NewWeighted(1), sealing: semaphore.NewWeighted(1),
		ready: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}),
		trusted: map[string]*Key{}, looked: map[string]time.Time{},
	}
	rand.Read(t.quick) // never fails
	t.cfgErr = t.configure()
	t.err = t.cfgErr
	t.status = Status{Name: cfg.Name, Since: time.Now()}
	return t
}

// configure puts together what Config says in its fields and in its URI.
func (t *Token) configure() error {
	var u tokenuri.URI
	if t.cfg.URI != "" {
		var err error
		if u, err = tokenuri.Parse(t.cfg.URI); err != nil {
			return t.fail("configure", "", fmt.Errorf("%w: %w", ErrInvalid, err))
		}
	}
	var bad []string
	pick := func(what, field, uri string) string {
		if field != "" && uri != "" && field != uri {
			bad = append(bad, fmt.Sprintf("%s is %q and in the URI %q", what, field, uri))
		}
		if field != "" {
			return field
		}
		return uri
	}
	t.selector = wire.Selector{Label: pick("label", t.cfg.Label, u.Label), Serial: pick("serial", t.cfg.Serial, u.Serial),
		Manufacturer: u.Manufacturer, Model: u.Model}
	t.cfg.Module = pick("module", t.cfg.Module, u.Module)
	t.pin = wire.PINSource(t.cfg.PIN)
	if t.pin == (wire.PINSource{}) {
		t.pin.File = u.PINFile
	}
	if t.selector == (wire.Selector{}) {
		bad = append(bad, "no label, serial or URI says which token")
	}
	if t.cfg.Module == "" {
		bad = append(bad, "no module")
	}
	if t.cfg.Ledger == nil {
		bad = append(bad, "no ledger")
	}
	if t.cfg.Sessions < wire.MinSessions {
		bad = append(bad, fmt.Sprintf("%d sessions: at least %d are needed", t.cfg.Sessions, wire.MinSessions))
	}
	if t.cfg.Worker == "" {
		self, err := os.Executable()
		if err != nil {
			bad = append(bad, err.Error())
		}
		t.cfg.Worker = filepath.Join(filepath.Dir(self), "signet-hsm")
	}
	if len(bad) > 0 {
		return t.fail("configure", "", fmt.Errorf("%w: %s", ErrInvalid, strings.Join(bad, "; ")))
	}
	return nil
}

// A Status is how a token is.
type Status struct {
	Name     string
	Open     bool
	Err      error     // why it is not open, or why its worker was last replaced
	Since    time.Time // when Open last changed
	Tried    time.Time // when the last try to open it that has failed was begun
	Restarts int       // workers started, after the first
	PID      int       // of the worker that has it open; 0 if none has

	// What was last opened.
	Label, Serial, Module string
	Sessions              int       // signatures that can be under way at once
	Types                 []KeyType // what the token can make for signing
	Limits                []string  // what the token cannot do
	Warnings              []string  // what should be seen to; after "; " how
	Lost                  []string  // keys of the ledger that were looked for and are not on the token
	Unfit                 []string  // keys of the ledger that have failed their checks, and are not used
}

// Status tells how the token is.
func (t *Token) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status
	if s.Err == nil && !s.Open {
		s.Err = t.err
	}
	return s
}

// Ready is closed when the token was opened for the first time.
func (t *Token) Ready() <-chan struct{} { return t.ready }

// Changed is closed at the next change of the status. Call it before looking at
// the status, so as not to miss one.
func (t *Token) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// update changes the state under the lock and tells those who wait.
func (t *Token) update(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	t.tell()
}

// tell wakes those who wait for a change. t.mu is held.
func (t *Token) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// ClearPINGuard has what the token refused forgotten, and the token tried to be
// opened. It does not wait, but returns when it was called: a try that heeds it has
// begun once Status.Tried is later. A token that is open has accepted its PIN, and is
// left alone.
func (t *Token) ClearPINGuard() time.Time {
	if t.Status().Open {
		return time.Now()
	}
	t.pardon.Store(true)
	called := time.Now()
	select {
	case t.kick <- struct{}{}:
	default:
	}
	return called
}

// await returns the open worker, waiting until the deadline while one is being
// replaced. A token that cannot be opened is told at once.
func (t *Token) await(ctx context.Context, deadline time.Time) (*process, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for {
		t.mu.Lock()
		p, err, changed := t.cur, t.err, t.changed
		t.mu.Unlock()
		if p != nil && p.given() == nil {
			return p, nil
		}
		if p == nil && err != nil {
			return nil, fmt.Errorf("%w: %w", ErrClosed, err)
		}
		if p != nil {
			// It has just been given up; Run is about to notice.
			select {
			case <-p.done:
			case <-ctx.Done():
				return nil, t.notYet(ctx)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, t.notYet(ctx)
		}
	}
}

// notYet is what those are told who have waited for a worker for as long as they may:
// why the one before has ended, if there was one.
func (t *Token) notYet(ctx context.Context) error {
	why := t.Status().Err
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%w: %w", ErrClosed, ctx.Err())
	case why == nil:
		return fmt.Errorf("%w: it was not opened in time (%w)", ErrClosed, ErrDeadline)
	}
	return fmt.Errorf("%w: it was not opened again in time: %w", ErrClosed, why)
}

// A request is one call on the token.
type request struct {
	name    string // for errors and metrics
	key     string // for errors
	op      wire.Op
	payload []byte
	alone   bool          // nothing else may be under way in the module
	timeout time.Duration // 0 is Config.Timeout
	once    bool          // must not be made again when its outcome is not known
	twice   *wire.Error   // the answer when two workers end over its CKR; nil for none
}

// maxTries is how often a call is made when workers end under it: its deadline
// comes first, unless it is the call that ends them.
const maxTries = 6

// raw makes a call and returns the bare answer.
func (t *Token) raw(ctx context.Context, r request) (reply []byte, err error) {
	if t.cfg.Observe != nil {
		start := time.Now()
		defer func() { t.cfg.Observe(r.name, time.Since(start), err) }()
	}
	timeout := r.timeout
	if timeout == 0 {
		timeout = t.cfg.Timeout
	}
	deadline := time.Now().Add(t.cfg.Timeout) // for a worker to be there
	for try, said := 1, 0; ; try++ {
		p, err := t.await(ctx, deadline)
		if err != nil {
			return nil, t.fail(r.name, r.key, err)
		}
		weight := int64(1)
		if r.alone {
			weight = p.capacity
		}
		reply, err := p.call(ctx, weight, timeout, r.op, r.payload)
		if err == nil {
			return reply, nil
		}
		var werr *wire.Error
		ended := errors.As(err, &werr) && werr.Fatal && !errors.Is(err, errLost) // over this call, not over another
		if ended && r.twice != nil && werr.CKR == r.twice.CKR {
			if said++; said == 2 {
				return nil, t.fail(r.name, r.key, r.twice)
			}
		}
		again := ended || errors.Is(err, errLost)
		if !again || r.once || try == maxTries || ctx.Err() != nil {
			return nil, t.fail(r.name, r.key, err)
		}
	}
}

// sign makes a signature. Like raw, it is made once more by the next worker if
// one ends under it, but all within Config.Timeout.
func (t *Token) sign(ctx context.Context, k *Key, req *wire.Sign) (sig []byte, err error) {
	start := time.Now()
	deadline := start.Add(t.cfg.Timeout)
	if t.cfg.Observe != nil {
		defer func() { t.cfg.Observe("sign", time.Since(start), err) }()
	}
	for try := 1; ; try++ {
		p := t.inUse()
		if p == nil {
			if p, err = t.await(ctx, deadline); err != nil {
				return nil, t.fail("sign", k.info.String(), err)
			}
		}
		if sig, err = p.sign(ctx, deadline, t.cfg.Timeout, req); err == nil {
			if !p.proves(k, req, sig) {
				return nil, t.fail("sign", k.info.String(), fmt.Errorf("%w: its signature is not by its public half", ErrUntrusted))
			}
			return sig, nil
		}
		if t.back(ctx, deadline, k.info, err) {
			k.proven.Store(nil) // it may be another now
			continue
		}
		var werr *wire.Error
		again := errors.Is(err, errLost) || errors.As(err, &werr) && werr.Fatal
		if !again || try == maxTries || ctx.Err() != nil || !time.Now().Before(deadline) {
			return nil, t.fail("sign", k.info.String(), err)
		}
	}
}

// inUse is the open worker if there is one that can be used.
func (t *Token) inUse() *process {
	t.mu.Lock()
	p := t.cur
	t.mu.Unlock()
	if p == nil || p.given() != nil {
		return nil
	}
	return p
}

// call makes a call with JSON both ways.
func (t *Token) call(ctx context.Context, r request, req, reply any) error {
	var err error
	if r.payload, err = wire.Marshal(req); err != nil {
		return t.fail(r.name, r.key, err)
	}
	b, err := t.raw(ctx, r)
	if err != nil {
		return err
	}
	if err := wire.Unmarshal(b, reply); err != nil {
		return t.fail(r.name, r.key, err)
	}
	return nil
}

// A reason is the text of a refusal together with what kind it is.
type reason struct {
	text string
	kind error
}

func (r reason) Error() string { return r.text }
func (r reason) Unwrap() error { return r.kind }

// fail makes an *Error of err. One that is there already is left as it is.
func (t *Token) fail(op, key string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	e = &Error{Op: op, Token: t.cfg.Name, Key: key, Err: err}
	var werr *wire.Error
	if !errors.As(err, &werr) {
		return e
	}
	e.CKR, e.Name = werr.CKR, werr.Name
	text := werr.Name
	if werr.Text != "" && werr.Text != op {
		text = werr.Text + ": " + werr.Name
	}
	kind := kindOf(werr.Name)
	if kind == nil && errors.Is(err, errLost) {
		kind = errLost
	}
	e.Err = reason{text, kind}
	return e
}

// kindOf tells what kind of refusal a name stands for.
func kindOf(name string) error {
	if _, ok := pinRefusals[name]; ok {
		return ErrPIN
	}
	switch name {
	case wire.PINUnreadable, wire.PINEmpty, wire.PINUnfinished, wire.PINFinalTry:
		return ErrPIN
	case wire.TokenReplaced:
		return ErrReplaced
	case wire.KeyMissing, wire.KeyVanished:
		return ErrKeyLost
	case wire.KeyAmbiguous:
		return ErrUntrusted
	case wire.SealBroken:
		return ErrSealed
	case wire.BadRequest:
		return ErrInvalid
	}
	return nil
}
