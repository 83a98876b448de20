package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/internal/access"
)

// evidence is what an audit is verified with, and who says so.
type evidence struct {
	keys     map[string]crypto.PublicKey // nil: none is known
	keysFrom string
	end      string // hash of a line that has to be there; "": none is known
	endFrom  string
	running  bool  // the agent answers, and the files are its own
	why      error // why the agent was not believed; nil if it was, or was not asked
}

// auditEvidence collects it: what was given on the command line, else what the
// running agent says, unless it is silent, else what lies beside the file. Keys of
// two of these are never put together: who can write the file could add some of
// their own. Without a path the audit is the agent's.
func auditEvidence(agent *client.Audit, silent error, path, keysFile, head string) (evidence, error) {
	a := evidence{end: head, endFrom: "--head", why: silent}
	err := silent
	if silent == nil {
		a.running = path == "" || sameFile(agent.File, path)
		if head == "" && a.running {
			a.end, a.endFrom = agent.Head, "the agent"
		}
	}
	switch {
	case keysFile != "":
		a.keysFrom = keysFile
		a.keys, err = readKeys(keysFile)
	case err == nil:
		a.keysFrom = "the agent"
		a.keys, err = keysOf(agent)
	default:
		a.keysFrom = access.AuditKeysFile(path)
		if a.keys, err = readKeys(a.keysFrom); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err != nil || a.end != "" {
		return a, err
	}
	a.endFrom = access.AuditEndFile(path)
	if a.end, err = access.ReadAuditEnd(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return a, fmt.Errorf("audit file %s: its end: %w", path, err)
	}
	return a, nil
}

func (p *program) askAudit(ctx context.Context) (*client.Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return p.agent().Audit(ctx)
}

func keysOf(a *client.Audit) (map[string]crypto.PublicKey, error) {
	known := map[string]crypto.PublicKey{}
	for _, k := range a.Keys {
		pub, err := k.Public()
		if err != nil {
			return nil, err
		}
		known[access.AuditKey+"#"+strconv.Itoa(k.Generation)] = pub
	}
	return known, nil
}

// sameFile reports whether two paths lead to one file.
func sameFile(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// agentNote says why a running agent was not believed. That none runs is no news.
func (a *evidence) agentNote() string {
	e, ok := errors.AsType[*client.Error](a.why)
	if !ok || e.Status == 0 {
		return ""
	}
	return fmt.Sprintf("; the agent does not say more: %v", e)
}

// keysNote says whose keys a signature was held against.
func (a *evidence) keysNote() string {
	if a.keys == nil {
		return ""
	}
	return " (by the keys of " + a.keysFrom + ")"
}

// An auditError is something that is missing of an audit.
type auditError struct {
	path string
	err  error
}

func (e *auditError) Error() string { return fmt.Sprintf("audit file %s: %v", e.path, e.err) }
func (e *auditError) Unwrap() error { return e.err }

// Hint says what an operator can do about it.
func (e *auditError) Hint() string {
	return "compare it with a copy kept elsewhere; if files were removed on purpose, --after says what the last of them ended with"
}

// An endError says that nobody knows how an audit ends.
type endError struct{ path string }

func (e *endError) Error() string {
	return fmt.Sprintf("audit file %s: the lines are whole, but whether others followed is not known: no agent answers for this file, and there is no %s", e.path, access.AuditEndFile(e.path))
}

// Hint says what an operator can do about it.
func (e *endError) Hint() string { return "name the hash of a line that has to be there with --head" }

// A keysError says that signatures cannot be checked.
type keysError struct{ path string }

func (e *keysError) Error() string {
	return fmt.Sprintf("audit file %s: the lines are whole, but its signatures cannot be checked: no agent answers, and there is no %s", e.path, access.AuditKeysFile(e.path))
}

// Hint says what an operator can do about it.
func (e *keysError) Hint() string {
	return "name a file with the public keys with --keys; `signet key show audit` prints the key"
}
