package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// metaAudit is where the state has what the agent remembers of its audit.
const metaAudit = "audit"

// An auditMemory is what the agent knows of its audit from before. What matters
// of it is sealed, so that nobody who can write all its files can make it believe
// in other keys or in another end; but the end is remembered without the HSM too.
type auditMemory struct {
	shelf shelf
	path  string // of the audit file

	mu     sync.Mutex
	kept   auditKept      // guarded by mu
	sealer *sealer        // guarded by mu; nil until the HSM is open
	fresh  bool           // there is no data key yet, so nothing can have been sealed
	sealed auditKnowledge // guarded by mu; what kept.Sealed holds
}

// auditKept is how it lies in the state.
type auditKept struct {
	Path   string // of the audit file
	Head   string // hash of a line that is in it
	Sealed []byte // an auditKnowledge
}

// auditKnowledge is what is sealed. The head may be of some time ago.
type auditKnowledge struct {
	Path string
	Head string
	Keys []auditPublic
}

// auditPublic is the public half of a generation of the key.
type auditPublic struct {
	Generation int
	SPKI       []byte
}

const sealedAudit = "audit"

func openAuditMemory(s shelf, path string) (*auditMemory, error) {
	m := &auditMemory{shelf: s, path: path}
	key, err := s.Meta(metaDataKey)
	if err != nil {
		return nil, err
	}
	m.fresh = key == nil
	text, err := s.Meta(metaAudit)
	if err != nil || text == nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m.kept); err != nil {
		m.kept = auditKept{} // it is missed when the HSM is open
	}
	return m, nil
}

// head is the hash of a line that has to be in the file, as far as that is known
// without the HSM.
func (m *auditMemory) head() string {
	if m.kept.Path != m.path {
		return ""
	}
	return m.kept.Head
}

// remember keeps the hash of the last line on the disk.
func (m *auditMemory) remember(hash string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept.Path, m.kept.Head = m.path, hash
	return m.save()
}

// save seals, if that is possible, and saves. The caller holds mu.
func (m *auditMemory) save() error {
	if m.sealer != nil {
		m.sealed.Path, m.sealed.Head = m.path, m.kept.Head
		plain, err := json.Marshal(m.sealed)
		if err != nil {
			return err
		}
		m.kept.Sealed = m.sealer.seal(sealedAudit, plain)
	}
	text, err := json.Marshal(m.kept)
	if err != nil {
		return err
	}
	return m.shelf.SetMeta(metaAudit, text)
}

// unlock opens what was sealed, has the audit looked through for the end that it
// tells of, and seals from then on. That there was nothing to open, or something
// that does not open, is as bad as an end that is missing.
func (m *auditMemory) unlock(s *sealer, audit *access.Audit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var known auditKnowledge
	plain, err := s.open(sealedAudit, m.kept.Sealed)
	if err == nil {
		err = json.Unmarshal(plain, &known)
	}
	switch {
	case err == nil && known.Path == m.path:
		err = audit.Expect(known.Head)
	case err == nil, m.fresh: // another file was configured, or the first start
		err = nil
	default:
		known, err = auditKnowledge{}, audit.Expect("")
	}
	if m.kept.Path != m.path {
		m.kept = auditKept{Path: m.path}
	}
	if m.kept.Head == "" {
		m.kept.Head = audit.Head().Hash
	}
	m.sealer, m.sealed = s, known
	return errors.Join(err, m.save())
}

// addKey remembers the public half of a key for as long as there are signatures.
func (m *auditMemory) addKey(generation int, pub crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealer == nil || slices.ContainsFunc(m.sealed.Keys, func(k auditPublic) bool {
		return k.Generation == generation && bytes.Equal(k.SPKI, der)
	}) {
		return nil
	}
	m.sealed.Keys = append(m.sealed.Keys, auditPublic{generation, der})
	return m.save()
}

// keys are the public halves of all keys that have signed.
func (m *auditMemory) keys() ([]socket.KeyInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealer == nil {
		return nil, &refusal{socket.CodeUnavailable, "the keys of the audit are sealed, and the HSM has not been open yet"}
	}
	out := []socket.KeyInfo{}
	for _, k := range m.sealed.Keys {
		pub, err := x509.ParsePKIXPublicKey(k.SPKI)
		if err != nil {
			return nil, err
		}
		text, err := pemOf(pub)
		if err != nil {
			return nil, err
		}
		out = append(out, socket.KeyInfo{Name: auditKeyName, Generation: k.Generation, Algorithm: string(hsm.ECDSAP256), PublicKey: text})
	}
	return out, nil
}

// openAudit opens the audit.
func (a *Agent) openAudit() error {
	path := a.cfg.AuditPath()
	memory, err := openAuditMemory(a.store, path)
	if err != nil {
		return fmt.Errorf("read what is remembered of the audit: %w", err)
	}
	a.signer.memory = memory
	a.audit, err = access.OpenAudit(access.AuditConfig{
		Path: path, Allow: !a.cfg.Audit.Refuses(), Log: a.log, MaxSize: a.cfg.Audit.MaxSize(), Keep: a.cfg.Audit.Keep,
		Sign: a.signer.sign, Known: memory.head(), Remember: memory.remember,
	})
	if err != nil {
		return err
	}
	a.tellOfCut()
	return nil
}

// unlockAudit compares the audit with what was sealed of it.
func (a *Agent) unlockAudit(s *sealer) {
	was := a.audit.Cut()
	if err := a.signer.memory.unlock(s, a.audit); err != nil {
		a.log.Warn("what is remembered of the audit", "err", err)
	}
	if was == nil {
		a.tellOfCut()
	}
}

func (a *Agent) tellOfCut() {
	if cut := a.audit.Cut(); cut != nil {
		a.log.Error("audit was cut off", "err", cut, "hint", cut.Hint())
	}
}

// auditNotices are what is wrong with the audit now.
func (a *Agent) auditNotices() (out []string) {
	if err := a.audit.Err(); err != nil {
		out = append(out, withHint(err))
	}
	if cut := a.audit.Cut(); cut != nil {
		out = append(out, withHint(cut))
	}
	return out
}

// AuditLines is for socket.Backend.
func (b backend) AuditLines(last int, after string) (r io.ReadCloser, err error) {
	if path := b.cfg.AuditPath(); last >= 0 {
		r, err = access.OpenAuditTail(path, last)
	} else {
		r, err = access.OpenAuditLines(path, after)
	}
	return r, problem(err)
}

// Audit is for socket.Backend.
func (b backend) Audit(context.Context) (socket.AuditInfo, error) {
	keys, err := b.signer.memory.keys()
	if err != nil {
		return socket.AuditInfo{}, problem(err)
	}
	return socket.AuditInfo{File: b.cfg.AuditPath(), Head: b.audit.Head().Hash, Keys: keys}, nil
}
