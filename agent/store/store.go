package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	fileName = "signet.db"
	lockName = "lock"
)

// Store is the open state of one agent.
type Store struct {
	path   string
	db     *sql.DB
	lock   *os.File
	damage *Damage

	copying sync.Mutex // held while the copy is made

	writes  chan write
	closing chan struct{} // closed by Close
	written chan struct{} // closed when the writer has ended
	close   func() error  // once
}

// Open opens the state in dir, which is made if it is not there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &Error{Op: "make the directory", Path: dir, Err: plainPath(err)}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path: filepath.Join(dir, fileName), lock: lock,
		writes: make(chan write), closing: make(chan struct{}), written: make(chan struct{}),
	}
	if err := s.openFile(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.close = sync.OnceValue(s.shut)
	go s.writeAll()
	return s, nil
}

// Damaged tells of the file that Open found damaged, or is nil.
func (s *Store) Damaged() *Damage { return s.damage }

// Close waits for the writes under way and closes the file.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	close(s.closing)
	<-s.written
	err := s.db.Close()
	return errors.Join(err, s.lock.Close())
}

// openFile opens the file, or in place of a damaged one its copy, or a new one.
func (s *Store) openFile() error {
	err := s.tryOpen()
	if err == nil || !errors.Is(err, errDamaged) {
		return err
	}
	aside, aerr := setAside(s.path, time.Now())
	if aerr != nil {
		return errors.Join(err, &Error{Op: "set the damaged file aside", Path: s.path, Err: aerr})
	}
	s.damage = &Damage{File: s.path, Aside: aside, Why: strings.TrimPrefix(unwrapped(err), errDamaged.Error()+": ")}
	if s.damage.Restored, err = s.restore(); err != nil {
		return &Error{Op: "restore from the copy", Path: s.path, Err: plainPath(err)}
	}
	if err := s.tryOpen(); !s.damage.Restored || !errors.Is(err, errDamaged) {
		return err
	}
	// The copy is no better. It stays beside the one that was set aside.
	s.damage.Restored = false
	if err := os.Rename(s.path+copySuffix, aside+copySuffix); err != nil {
		return &Error{Op: "set the damaged copy aside", Path: s.path, Err: plainPath(err)}
	}
	if err := os.Remove(s.path); err != nil {
		return &Error{Op: "remove the damaged copy", Path: s.path, Err: plainPath(err)}
	}
	return s.tryOpen()
}

func unwrapped(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		err = e.Err
	}
	return err.Error()
}

func (s *Store) tryOpen() error {
	// SQLite would make the file readable to others, and would leave it to
	// chance whether its name survives a power cut.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &Error{Op: "open", Path: s.path, Err: plainPath(err)}
	}
	info, err := f.Stat()
	err = errors.Join(err, f.Chmod(0o600), f.Close(), syncDir(filepath.Dir(s.path)))
	if err != nil {
		return &Error{Op: "open", Path: s.path, Err: plainPath(err)}
	}
	if info.Size() == 0 && s.hasCopy() {
		// SQLite would take it for a new one.
		return &Error{Op: "open", Path: s.path, Err: fmt.Errorf("%w: it is empty, and there is a copy of what was in it", errDamaged)}
	}
	// No other process may open the file while we have it, so that there is
	// no shared memory file either. What was read is not read again, so little
	// of it is kept in memory: 256 KiB.
	query := url.Values{"_pragma": {"locking_mode(exclusive)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(on)", "secure_delete(on)", "cache_size(-256)"}, "_txlock": {"immediate"}}
	dsn := url.URL{Scheme: "file", Path: s.path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return &Error{Op: "open", Path: s.path, Err: plain(err)}
	}
	db.SetMaxOpenConns(1) // the file is locked by the connection
	if err := check(db); err != nil {
		return errors.Join(&Error{Op: "open", Path: s.path, Err: plain(err)}, db.Close())
	}
	if err := migrate(db, migrations); err != nil {
		return errors.Join(&Error{Op: "migrate", Path: s.path, Err: plain(err)}, db.Close())
	}
	s.db = db
	return nil
}

// check reads through the whole file.
func check(db *sql.DB) error {
	var verdict string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		first, _, _ := strings.Cut(strings.TrimPrefix(verdict, "*** in database main ***\n"), "\n")
		return fmt.Errorf("%w: %s", errDamaged, first)
	}
	return nil
}

// setAside gives the file a name that tells when it was found damaged. Its log
// belongs to it and goes with it: what is in there must not be applied to the
// new file.
func setAside(path string, now time.Time) (string, error) {
	aside := path + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return aside, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plainPath drops the path that the error text has already.
func plainPath(err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err
	}
	return err
}
