package consumers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"
)

// A Way makes a consumer notice. The ways are Unit, Exec, Signal, HAProxy and
// Redis.
type Way interface {
	// Reload returns nil when the consumer says that it has taken up the files,
	// and an error that is ErrNotRunning when there is no consumer to tell.
	Reload(ctx context.Context) error
	// Check looks whether a reload could be made, without making one.
	Check(ctx context.Context) error
	// String tells ways apart. Targets whose ways have the same are reloaded by
	// one call.
	String() string
}

// ErrNotRunning says that a consumer is stopped, as somebody wanted it to be.
var ErrNotRunning = errors.New("it does not run")

// orNotRunning makes that of an error with the pid file or the socket of a
// consumer, if it says that nobody has made it or listens on it.
func orNotRunning(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	return err
}

// A Target is a file, or the directory of a set of files, that a consumer reads.
type Target struct {
	// Path is what Changes name it by.
	Path string
	// Test is a command that must succeed before the reload; it may be empty.
	Test []string
	// Way is how the consumer is told.
	Way Way
	// Limit ends the test and the reload, each; 0 is 30 seconds.
	Limit time.Duration
	// Proof is made after the reload, if it has an address.
	Proof Proof
}

// A Consumer is who reads targets.
type Consumer struct {
	Name    string
	Targets []Target
}

// A Change is a write to a target.
type Change struct {
	Target string
	// Generation tells what is written from what was and will be there.
	Generation int64
	// Leaves are the certificates in it, in DER. A Proof looks for one of those
	// that are for its name.
	Leaves [][]byte
	// Repaired says that the file is again what it was: somebody else had
	// changed it.
	Repaired bool
}

// A Failure is told to whoever watches over the host.
type Failure struct {
	Consumer   string
	Op         string   // opTest, opReload or opProve
	Err        error    // an *Error
	RolledBack []string // targets that have their previous content again
	RetryAt    time.Time
}

// The steps, as Failures and Errors name them.
const (
	OpTest   = "test"
	OpReload = "reload"
	OpProve  = "prove"
)

// The outcomes of a try, as Observe is told them.
const (
	OutcomeOK         = "ok"
	OutcomeSkipped    = "skipped" // the consumer does not run
	OutcomeTestFailed = "test-failed"
	OutcomeFailed     = "failed"
	OutcomeUnproven   = "unproven"
)

// A Store keeps small records; what a method has written is on stable storage
// when it returns.
type Store interface {
	Records(kind string) (map[string][]byte, error)
	SaveRecord(kind, name string, value []byte) error
	DeleteRecord(kind, name string) error
}

// Files are what the consumers read.
type Files interface {
	// Rollback puts the generation of a target back that was there before those
	// that were not TakenUp, and keeps it there until Redeliver is called or
	// something new is published. Neither Writing nor Written is called for it. It
	// reports false where something else than what was tried is in place.
	Rollback(target string, tried int64) (done bool, err error)
	// Redeliver writes again what was rolled back; Writing and Written are
	// called for it.
	Redeliver(target string) error
	// Generation is what is in place.
	Generation(target string) (int64, error)
	// Leaves are the certificates in what is in place, in DER; nil if that is not
	// known (yet).
	Leaves(target string) [][]byte
	// Wanted names what should be in a target; it is the same in any process.
	Wanted(target string) (string, error)
	// Hold leaves a target as it is, as a Rollback before the last start has left
	// it, for as long as what should be in it is wanted.
	Hold(target, wanted string) error
	// Revives says what a Rollback of a target would bring back that nobody can use,
	// as far as is known: a secret that its upstream has replaced, a certificate
	// that is revoked.
	Revives(target string) (why []string, err error)
}

// Config configures Consumers.
type Config struct {
	Consumers []Consumer
	Store     Store
	Files     Files
	// Observe is told of each try of a consumer; it may be nil.
	Observe func(consumer, outcome string)
	// Failed is told of each try that failed; it may be nil.
	Failed func(Failure)
	// Log is told what happens; nil is nobody.
	Log *slog.Logger
}

// An Error is a consumer that did not take up its files.
type Error struct {
	Consumer string
	Op       string // OpTest, OpReload or OpProve
	Err      error
}

func (e *Error) Error() string {
	return fmt.Sprintf("consumer %q: %s: %v", e.Consumer, e.Op, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string {
	type hinter interface {
		error
		Hint() string
	}
	if h, ok := errors.AsType[hinter](e.Err); ok {
		return h.Hint()
	}
	return ""
}

// hinted is an error with what an operator can do about it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.hint }

func withHint(hint, format string, args ...any) error {
	return &hinted{fmt.Errorf(format, args...), hint}
}
