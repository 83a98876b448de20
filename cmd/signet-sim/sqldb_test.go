package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/client/sqldb/mysql"
	"github.com/signet-agent/signet/client/sqldb/postgres"
	"github.com/signet-agent/signet/client/sqldb/sqldbtest"
)

// The whole path of a database password: real databases, the real agent, and a
// vault that knows of a change a moment after the database does. The agent has a
// copy that is good for an hour, so only the refused logins tell it. No query
// fails, although the agent is killed on the way.
func TestDatabasePasswordsChangeUnderLoad(t *testing.T) {
	h := startHost(t, filepath.Join(shm(t), "run"), "--rotate", "1h", "--life", "10m", "--new-key", "0")
	user, password := h.current().Fields["username"], h.current().Fields["password"]
	pg, maria := sqldbtest.Postgres(t), sqldbtest.MariaDB(t)
	pg.Exec(fmt.Sprintf(`CREATE ROLE "%s" LOGIN PASSWORD '%s'`, user, password))
	maria.Exec(fmt.Sprintf("CREATE USER '%s' IDENTIFIED BY '%s'", user, password))
	change := func(password string) {
		pg.Exec(fmt.Sprintf(`ALTER ROLE "%s" PASSWORD '%s'`, user, password))
		maria.Exec(fmt.Sprintf("ALTER USER '%s' IDENTIFIED BY '%s'", user, password))
		h.setPassword(password)
	}
	c := client.Client{Socket: h.client.Socket, Patience: h.client.Patience}
	defer c.Close()
	for name, open := range map[string]func() (*sql.DB, error){
		"postgres": func() (*sql.DB, error) {
			conn, err := postgres.New(&c, "db", fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres", pg.Port))
			return sql.OpenDB(conn), err
		},
		"mariadb": func() (*sql.DB, error) {
			conn, err := mysql.New(&c, "db", "unix("+maria.Socket+")/")
			return sql.OpenDB(conn), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			sqldbtest.Load(t, db, 3, func(i int) {
				if i == 1 {
					kill(h, "signet")
				}
				change(fmt.Sprintf("%s.%d", name, i))
			})
		})
	}
	h.nothingLeaks()
	h.stop()
}
