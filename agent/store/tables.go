package store

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// LedgerKey is one row of the ledger of keys.
type LedgerKey struct {
	ID         string // hex CKA_ID
	Token      string
	Name       string
	Generation int
	Type       string
	State      string
	Created    time.Time
	Serial     string
}

// Keys returns the ledger, by token, name and generation.
func (s *Store) Keys() ([]LedgerKey, error) {
	rows, err := s.db.Query("SELECT id, token, name, generation, type, state, created, serial FROM keys ORDER BY token, name, generation")
	if err != nil {
		return nil, s.readError("read keys", err)
	}
	defer rows.Close()
	var keys []LedgerKey
	for rows.Next() {
		var k LedgerKey
		var created int64
		if err := rows.Scan(&k.ID, &k.Token, &k.Name, &k.Generation, &k.Type, &k.State, &created, &k.Serial); err != nil {
			return nil, s.readError("read keys", err)
		}
		k.Created = time.Unix(0, created).UTC()
		keys = append(keys, k)
	}
	if err := rows.Err(); err != nil {
		return nil, s.readError("read keys", err)
	}
	return keys, nil
}

// SaveKey adds or replaces the key with this ID. That another key has the same
// token, name and generation is an error.
func (s *Store) SaveKey(k LedgerKey) error {
	return s.write("write key "+k.Name, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO keys (id, token, name, generation, type, state, created, serial) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET token = excluded.token, name = excluded.name, generation = excluded.generation,
			type = excluded.type, state = excluded.state, created = excluded.created, serial = excluded.serial`,
			k.ID, k.Token, k.Name, k.Generation, k.Type, k.State, k.Created.UnixNano(), k.Serial)
		return err
	})
}

// Record returns what SaveRecord was last given, or nil.
func (s *Store) Record(kind, name string) ([]byte, error) {
	return s.one("read "+kind+" "+name, "SELECT value FROM records WHERE kind = ? AND name = ?", kind, name)
}

// Records returns all records of a kind by name.
func (s *Store) Records(kind string) (map[string][]byte, error) {
	return s.byName("read all of "+kind, "SELECT name, value FROM records WHERE kind = ?", kind)
}

// SaveRecord adds or replaces a record.
func (s *Store) SaveRecord(kind, name string, value []byte) error {
	return s.exec("write "+kind+" "+name, "INSERT OR REPLACE INTO records (kind, name, value) VALUES (?, ?, ?)", kind, name, notNil(value))
}

// DeleteRecord removes a record, if it is there.
func (s *Store) DeleteRecord(kind, name string) error {
	return s.exec("delete "+kind+" "+name, "DELETE FROM records WHERE kind = ? AND name = ?", kind, name)
}

// Secrets returns all sealed secrets by name.
func (s *Store) Secrets() (map[string][]byte, error) {
	return s.byName("read secrets", "SELECT name, value FROM secrets")
}

// SaveSecret adds or replaces a sealed secret.
func (s *Store) SaveSecret(name string, sealed []byte) error {
	return s.exec("write secret "+name, "INSERT OR REPLACE INTO secrets (name, value) VALUES (?, ?)", name, notNil(sealed))
}

// DeleteSecret removes a sealed secret, if it is there.
func (s *Store) DeleteSecret(name string) error {
	return s.exec("delete secret "+name, "DELETE FROM secrets WHERE name = ?", name)
}

// Meta returns what SetMeta was last given, or nil.
func (s *Store) Meta(name string) ([]byte, error) {
	return s.one("read "+name, "SELECT value FROM meta WHERE name = ?", name)
}

// SetMeta adds or replaces a small thing by name.
func (s *Store) SetMeta(name string, value []byte) error {
	return s.exec("write "+name, "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, notNil(value))
}

// DeleteMeta removes a small thing, if it is there.
func (s *Store) DeleteMeta(name string) error {
	return s.exec("delete "+name, "DELETE FROM meta WHERE name = ?", name)
}

// Guard remembers the PINs that tokens refused, across restarts.
type Guard struct{ s *Store }

// Guard is the memory for all tokens.
func (s *Store) Guard() Guard { return Guard{s} }

// guardSalt is where the salt lies, and guardPINs begins the name of what lies there
// for each PIN.
const (
	guardSalt = "pin-guard-salt"
	guardPINs = "pin-guard/"
)

// Salt is what goes into the digests. It is made once.
func (g Guard) Salt() ([]byte, error) {
	if salt, err := g.s.Meta(guardSalt); salt != nil || err != nil {
		return salt, err
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	if err := g.s.exec("write "+guardSalt, "INSERT OR IGNORE INTO meta (name, value) VALUES (?, ?)", guardSalt, salt); err != nil {
		return nil, err
	}
	return g.s.Meta(guardSalt)
}

// Refused returns what SetRefused was last given for a PIN, or "".
func (g Guard) Refused(token string, digest []byte) (reason string, err error) {
	b, err := g.s.Meta(guardedPIN(token, digest))
	return string(b), err
}

// SetRefused remembers a refused PIN by its digest, or forgets it if there is no
// reason.
func (g Guard) SetRefused(token string, digest []byte, reason string) error {
	if reason == "" {
		return g.forget(guardedPIN(token, digest))
	}
	return g.s.SetMeta(guardedPIN(token, digest), []byte(reason))
}

// Clear forgets all PINs of a token.
func (g Guard) Clear(token string) error { return g.forget(guardedPIN(token, nil)) }

func guardedPIN(token string, digest []byte) string {
	return fmt.Sprintf("%s%q/%x", guardPINs, token, digest)
}

// forget deletes what begins so. The digests do not stay behind in the log of changes
// either, unless that cannot be emptied now: then with one of the next.
func (g Guard) forget(prefix string) error {
	err := g.s.exec("delete "+guardPINs, "DELETE FROM meta WHERE substr(name, 1, length(?)) = ?", prefix, prefix)
	if err == nil {
		_, _ = g.s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return err
}

func (s *Store) exec(op, query string, args ...any) error {
	return s.write(op, func(tx *sql.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}

func (s *Store) one(op, query string, args ...any) ([]byte, error) {
	var value []byte
	err := s.db.QueryRow(query, args...).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, s.readError(op, err)
	}
	return notNil(value), nil
}

func (s *Store) byName(op, query string, args ...any) (map[string][]byte, error) {
	rows, err := s.db.Query(query, args...)
	if err != nil {
		return nil, s.readError(op, err)
	}
	defer rows.Close()
	all := map[string][]byte{}
	for rows.Next() {
		var name string
		var value []byte
		if err := rows.Scan(&name, &value); err != nil {
			return nil, s.readError(op, err)
		}
		all[name] = notNil(value)
	}
	if err := rows.Err(); err != nil {
		return nil, s.readError(op, err)
	}
	return all, nil
}

func (s *Store) readError(op string, err error) error {
	return &Error{Op: op, Path: s.path, Err: plain(err)}
}

// notNil tells an empty value, which is one, from nil, which is none.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
