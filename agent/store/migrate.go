package store

import (
	"database/sql"
	"fmt"
)

// migrations make the schema, each from the one before it. They are numbered
// from 1 by their place; one that has been released is never changed.
var migrations = []string{
	`
	CREATE TABLE keys (
		id         TEXT PRIMARY KEY, -- hex CKA_ID
		token      TEXT NOT NULL,    -- as it is called in the configuration
		name       TEXT NOT NULL,
		generation INTEGER NOT NULL,
		type       TEXT NOT NULL,
		state      TEXT NOT NULL,
		created    INTEGER NOT NULL, -- nanoseconds since 1970
		serial     TEXT NOT NULL,    -- of the token it was made on
		UNIQUE (token, name, generation)
	) STRICT;
	CREATE TABLE records (
		kind  TEXT NOT NULL,
		name  TEXT NOT NULL,
		value BLOB NOT NULL,
		PRIMARY KEY (kind, name)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE secrets (
		name  TEXT PRIMARY KEY,
		value BLOB NOT NULL -- sealed
	) STRICT;
	CREATE TABLE meta (
		name  TEXT PRIMARY KEY,
		value BLOB NOT NULL
	) STRICT;
	`,
}

// migrate brings the schema up to the last of steps. Each step is taken whole
// or not at all.
func migrate(db *sql.DB, steps []string) error {
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("the file was written by a newer signet (schema %d, this one knows %d); install that one again", version, len(steps))
	}
	for ; version < len(steps); version++ {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		_, err = tx.Exec(steps[version] + fmt.Sprintf("; PRAGMA user_version = %d", version+1))
		if err != nil {
			_ = tx.Rollback()
			return fmt.Errorf("schema %d: %w", version+1, err)
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}
