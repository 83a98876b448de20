package sqldbtest

import (
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Load queries db from several goroutines, with connections that live for some
// milliseconds only so that logins never stop, while the credential is rotated.
// No query may fail, and a connection of before goes on.
func Load(t *testing.T, db *sql.DB, rotations int, rotate func(i int)) {
	t.Helper()
	const workers = 8
	old, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	db.SetMaxOpenConns(workers + 1)
	db.SetConnMaxLifetime(50 * time.Millisecond)
	var done, failed atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var one int
				if err := db.QueryRowContext(t.Context(), "SELECT 1").Scan(&one); err != nil || one != 1 {
					t.Errorf("query failed: %d, %v", one, err)
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	some := func() { // time for all workers to log in
		for n, closed := done.Load(), db.Stats().MaxLifetimeClosed; done.Load() < n+50 || db.Stats().MaxLifetimeClosed < closed+workers; {
			<-time.After(time.Millisecond)
		}
	}
	for i := range rotations {
		some()
		rotate(i)
		some()
		if _, err := old.ExecContext(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("a connection of before the rotation: %v", err)
		}
	}
	close(stop)
	all.Wait()
	t.Logf("%d queries over about %d logins through %d rotations, %d failed", done.Load(), db.Stats().MaxLifetimeClosed, rotations, failed.Load())
}

// RotateUnderLoad has change set three other passwords under load: one that the
// agent learns of by a refused login, one that it finds by itself, and one that
// the vault is told of late.
func RotateUnderLoad(t *testing.T, db *sql.DB, agent *Agent, change func(password string)) {
	t.Helper()
	before := agent.Reports()
	Load(t, db, 3, func(i int) {
		password := agent.newPassword()
		change(password)
		if i == 2 {
			<-time.After(300 * time.Millisecond)
		}
		agent.Rotate(password)
		if i == 1 {
			agent.Learn()
		}
	})
	reports := agent.Reports() - before
	t.Logf("%d reports", reports)
	if reports == 0 {
		t.Error("nothing was reported")
	}
}
