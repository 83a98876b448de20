package agent

import (
	"errors"
	"os"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// credentials are the one-time credentials of a first registration.
type credentials struct {
	Username string
	Password secret.Value
}

// enrollable reports whether a first certificate can be asked for now.
func (r *rotator) enrollable() bool {
	if !r.spec.OneTime || r.given != nil {
		return true
	}
	if r.rec.Next.Kind != upstream.Register || r.rec.Next.CSR == nil || r.creds == nil {
		return false
	}
	c, ok, err := r.creds()
	if err != nil {
		r.log.Warn("one-time credentials not readable", "certificate", r.name, "err", err)
	}
	if ok {
		r.given = &c
	}
	return ok
}

// burnCredentials destroys the one-time credentials once they are of no use.
func (r *rotator) burnCredentials() {
	r.given = nil
	if r.burn == nil {
		return
	}
	if err := r.burn(); err != nil {
		r.log.Error("one-time credentials not destroyed; delete the file", "certificate", r.name, "err", err)
	}
}

// mayEnroll reports whether a registration with new credentials makes sense:
// there is no certificate, or its account is of no use any more.
func (r *rotator) mayEnroll() bool {
	cur := r.rec.Current
	return !cur.exists() || r.rec.Lost != "" || !r.clock().Before(cur.NotAfter) ||
		r.spec.Account != 0 && cur.Account != 0 && cur.Account != r.spec.Account
}

// enrollAnew is the record when new credentials have come, which are of a new
// account: nothing was sent on its behalf. A key that no certificate is known
// for goes on into it; the names are asked for as they are configured now.
func (r *record) enrollAnew() record {
	rec := *r
	rec.Lost = ""
	switch n := rec.Next; {
	case n.exists() && n.Kind != upstream.Renew:
		rec.Next = version{KeyID: n.KeyID, Generation: n.Generation, KeyMade: n.KeyMade, Kind: upstream.Register}
	case rec.Current.exists():
		rec.Next, rec.Asked = version{}, askedEnroll
	}
	return rec
}

// readCredentials reads the one-time credentials of a first registration; false
// if there is no such file, as after they were used.
func readCredentials(path string) (credentials, bool, error) {
	blob, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return credentials{}, false, nil
	}
	if err != nil {
		return credentials{}, false, err
	}
	defer clear(blob)
	user, pass, err := config.ParseEnrolment(path, blob)
	return credentials{user, pass}, err == nil, err
}

// shred overwrites a file and deletes it. On a file system that copies on write
// the overwriting is of no use, and deleting is what can be done.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	err = errors.Join(err, f.Sync(), f.Close())
	return errors.Join(err, os.Remove(path))
}
