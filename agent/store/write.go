package store

import "database/sql"

// A write waits for its turn.
type write struct {
	run  func(*sql.Tx) error
	done chan error
}

// write carries run out in a transaction and returns when that is on stable
// storage.
func (s *Store) write(op string, run func(*sql.Tx) error) error {
	w := write{run, make(chan error, 1)}
	select {
	case s.writes <- w:
	case <-s.closing:
		return &Error{Op: op, Path: s.path, Err: ErrClosed}
	}
	if err := <-w.done; err != nil {
		return &Error{Op: op, Path: s.path, Err: plain(err)}
	}
	return nil
}

// maxBatch bounds how long the first of many writes waits for the last.
const maxBatch = 256

// writeAll is the only writer. Writes that wait while one is being synced go
// together into the next transaction.
func (s *Store) writeAll() {
	defer close(s.written)
	for {
		var batch []write
		select {
		case w := <-s.writes:
			batch = append(batch, w)
		case <-s.closing:
			return
		}
	more:
		for len(batch) < maxBatch {
			select {
			case w := <-s.writes:
				batch = append(batch, w)
			default:
				break more
			}
		}
		s.commit(batch)
	}
}

// commit writes a batch. If that fails, each is tried by itself, so that one
// bad write fails alone.
func (s *Store) commit(batch []write) {
	err := s.transact(batch)
	for _, w := range batch {
		if err != nil && len(batch) > 1 {
			w.done <- s.transact([]write{w})
		} else {
			w.done <- err
		}
	}
}

func (s *Store) transact(batch []write) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	for _, w := range batch {
		if err := w.run(tx); err != nil {
			_ = tx.Rollback()
			return err
		}
	}
	return tx.Commit()
}
