package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// auditKeyName is the key that signs the audit's chain. It is made on the token of
// the sealing key like any other, is in the ledger, and signs nothing else: no policy
// can give its use away, only the sight of its public half.
const auditKeyName = access.AuditKey

// An auditSigner signs the audit's chain with a key of the token's, which it
// makes.
type auditSigner struct {
	token  func() (*hsm.Token, error)
	path   string // of the audit file; the public keys lie beside it
	memory *auditMemory

	mu    sync.Mutex
	known string // the key whose public half lies there; guarded by mu
}

// key is the newest key for the audit, made if there is none.
func (s *auditSigner) key(ctx context.Context, token *hsm.Token) (key *hsm.Key, newest hsm.LedgerKey, err error) {
	for _, k := range token.Keys() {
		if k.Name == auditKeyName && (k.State == hsm.Intended || k.State == hsm.Live) && k.Generation > newest.Generation {
			newest = k
		}
	}
	if newest.ID == "" {
		if newest, err = token.Reserve(auditKeyName, hsm.ECDSAP256); err != nil {
			return nil, newest, err
		}
	}
	key, err = token.Ensure(ctx, newest.ID)
	return key, newest, err
}

// sign is an access.SignFunc.
func (s *auditSigner) sign(ctx context.Context, digest [sha256.Size]byte) ([]byte, string, error) {
	token, err := s.token()
	if err != nil {
		return nil, "", err
	}
	if !token.Status().Open {
		return nil, "", errors.New("the token is not open")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, name, err := s.published(ctx, token)
	if err != nil {
		return nil, "", err
	}
	sig, err := key.SignContext(ctx, digest[:], crypto.SHA256)
	return sig, name, err
}

// published is the key, whose public half lies beside the audit, and its name.
// The caller holds mu.
func (s *auditSigner) published(ctx context.Context, token *hsm.Token) (*hsm.Key, string, error) {
	key, k, err := s.key(ctx, token)
	if err != nil {
		return nil, "", err
	}
	name := fmt.Sprintf("%s#%d", auditKeyName, k.Generation)
	if name != s.known {
		if err := publishKey(access.AuditKeysFile(s.path), name, key.Public()); err != nil {
			return nil, "", err
		}
		s.known = name
	}
	return key, name, s.memory.addKey(k.Generation, key.Public())
}

// prepare makes the key, so that no signature waits for that: the first may be
// made while the agent stops, which has no time for it.
func (s *auditSigner) prepare(ctx context.Context) error {
	token, err := s.token()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, err = s.published(ctx, token)
	return err
}

// info is the key as the socket shows it.
func (s *auditSigner) info(ctx context.Context) (socket.KeyInfo, error) {
	token, err := s.token()
	if err != nil {
		return socket.KeyInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, k, err := s.key(ctx, token)
	if err != nil {
		return socket.KeyInfo{}, err
	}
	got, err := token.Info(ctx, k.ID)
	if err != nil {
		return socket.KeyInfo{}, err
	}
	text, err := pemOf(got.Public)
	return socket.KeyInfo{Name: auditKeyName, Generation: k.Generation, Algorithm: string(k.Type), PublicKey: text, Attributes: attributesOf(got)}, err
}

// publishKey adds a public key to the file of those that verify the audit.
func publishKey(path, name string, pub crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"Key": name}, Bytes: der})
	if bytes.Contains(before, block) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".audit-keys-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(before, block...))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// record writes down what happened to an item of its own accord. What callers do
// the socket writes down.
func (a *Agent) record(e event) {
	w := e.wire()
	entry := access.Entry{Time: e.At, Kind: w.Kind, Name: e.Name, Event: e.Type, Outcome: "ok", Count: e.Generation}
	if entry.Time.IsZero() {
		entry.Time = time.Now()
	}
	if e.Error != "" {
		entry.Outcome, entry.Error = e.outcome(), e.Error
	}
	if err := a.audit.Append(&entry); err != nil {
		a.log.Debug("change not recorded", "event", e.Type, "name", e.Name, "err", err)
	}
}

// outcome is the code of an event that tells of a failure.
func (e event) outcome() string {
	if e.Code != "" {
		return string(e.Code)
	}
	return socket.CodeUnavailable
}

// prepareAudit makes the key of the audit when the tokens are open. Where that
// fails the first signature tries again.
func (a *Agent) prepareAudit(ctx context.Context) error {
	if a.awaitOpen(ctx) {
		if err := a.signer.prepare(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("no key for the audit yet", "err", err, "hint", hintOf(err))
		}
	}
	<-ctx.Done()
	return nil
}

// signAudit has the audit's chain signed for the last time, before the tokens
// are closed.
func (a *Agent) signAudit(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := a.audit.SignHead(ctx); err != nil {
		a.log.Warn("the end of the audit is not signed", "err", err)
	}
}
