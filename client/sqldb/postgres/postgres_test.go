package postgres

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/signet-agent/signet/client/sqldb"
	"github.com/signet-agent/signet/client/sqldb/sqldbtest"
)

// The password of a real PostgreSQL changes under load, by TCP and by Unix
// socket, and no query fails: whether the agent learns of it by itself or only
// because a login was refused, and although the vault knows later than the
// database.
func TestNoQueryFailsWhenThePasswordChanges(t *testing.T) {
	server := sqldbtest.Postgres(t)
	server.Exec("CREATE ROLE app LOGIN PASSWORD 'it''s p0'")
	server.Exec("CREATE DATABASE shop OWNER app")
	agent := sqldbtest.NewAgent(t, map[string]string{"username": "app", "password": "it's p0", "ip": "127.0.0.1", "port": fmt.Sprint(server.Port)})
	for name, dsn := range map[string]string{
		"tcp, address from the secret": "postgres:///shop?sslmode=disable",
		"unix socket":                  fmt.Sprintf("host=%s port=%d dbname=shop", server.Socket, server.Port),
	} {
		t.Run(name, func(t *testing.T) {
			sqldbtest.RotateUnderLoad(t, open(t, agent, dsn), agent, func(password string) {
				server.Exec("ALTER ROLE app PASSWORD '" + strings.ReplaceAll(password, "'", "''") + "'")
			})
		})
	}
}

func TestAWrongPasswordIsAnError(t *testing.T) {
	server := sqldbtest.Postgres(t)
	server.Exec("CREATE ROLE app LOGIN PASSWORD 'right'")
	agent := sqldbtest.NewAgent(t, map[string]string{"username": "app", "password": "wrong"})
	c, err := New(agent.Client, "db", fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres", server.Port))
	if err != nil {
		t.Fatal(err)
	}
	c.Patience = -1
	db := sql.OpenDB(c)
	defer db.Close()
	err = db.PingContext(t.Context())
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != "28P01" || !strings.HasPrefix(err.Error(), `log in with secret "db" version "1": `) {
		t.Errorf("error %v", err)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "wrong") {
		t.Errorf("the password is in the error %+v", err)
	}
	// A database that is not there is no reason to doubt the password.
	reports := agent.Reports()
	c, err = New(agent.Client, "db", fmt.Sprintf("host=%s port=1 dbname=postgres", server.Socket))
	if err != nil {
		t.Fatal(err)
	}
	away := sql.OpenDB(c)
	defer away.Close()
	if err := away.PingContext(t.Context()); err == nil || agent.Reports() != reports {
		t.Errorf("error %v, %d reports", err, agent.Reports()-reports)
	}
}

// A rotation may change the user as well, and disable the one of before.
func TestRotationBetweenTwoUsers(t *testing.T) {
	server := sqldbtest.Postgres(t)
	server.Exec("CREATE ROLE blue LOGIN PASSWORD 'b'")
	server.Exec("CREATE ROLE green LOGIN PASSWORD 'g'")
	agent := sqldbtest.NewAgent(t, map[string]string{"username": "blue", "password": "b"})
	db := open(t, agent, fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres", server.Port))
	db.SetMaxIdleConns(0) // each query is a login
	who := func() (user string, err error) {
		err = db.QueryRowContext(t.Context(), "SELECT current_user").Scan(&user)
		return user, err
	}
	if user, err := who(); user != "blue" {
		t.Fatal(user, err)
	}
	agent.RotateUser("green", "g")
	server.Exec("ALTER ROLE blue NOLOGIN")
	if user, err := who(); user != "green" || agent.Reports() != 1 {
		t.Errorf("%q, %v, %d reports", user, err, agent.Reports())
	}
	server.Exec("ALTER ROLE blue LOGIN PASSWORD 'b2'")
	agent.RotateUser("blue", "b2")
	server.Exec("DROP ROLE green")
	if user, err := who(); user != "blue" || agent.Reports() != 2 {
		t.Errorf("%q, %v, %d reports", user, err, agent.Reports())
	}
	// What pg_hba.conf keeps out, no other credential gets in.
	server.Exec("CREATE ROLE outsider LOGIN PASSWORD 'o'")
	agent = sqldbtest.NewAgent(t, map[string]string{"username": "outsider", "password": "o"})
	db = open(t, agent, fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres", server.Port))
	_, err := who()
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "28000" || agent.Reports() != 0 {
		t.Errorf("%v, %d reports", err, agent.Reports())
	}
}

func TestRefused(t *testing.T) {
	d := &database{}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"wrong password", &pgconn.PgError{Code: "28P01", Routine: "auth_failed"}, true},
		{"in a chain", fmt.Errorf("x: %w", errors.Join(errors.New("y"), &pgconn.PgError{Code: "28P01"})), true},
		{"role may not log in", &pgconn.PgError{Code: "28000", Routine: "InitializeSessionUserId"}, true},
		{"host not in pg_hba.conf", &pgconn.PgError{Code: "28000", Routine: "ClientAuthentication"}, false},
		{"no such database", &pgconn.PgError{Code: "3D000"}, false},
		{"starting up", &pgconn.PgError{Code: "57P03"}, false},
		{"too many connections", &pgconn.PgError{Code: "53300"}, false},
		{"unreachable", errors.New("connection refused"), false},
	} {
		if got := d.Refused(tt.err); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestConfig(t *testing.T) {
	full := sqldb.Credential{Username: "u", Password: "p w'\\", Host: "db.example", Port: 6000}
	for _, tt := range []struct {
		dsn  string
		cred sqldb.Credential
		want string
	}{
		{"dbname=shop", full, "u:p w'\\@db.example:6000/shop"},
		{"host=other dbname=shop", full, "u:p w'\\@other:6000/shop"},
		{"host=other port=7000 dbname=shop user=x password=y", full, "u:p w'\\@other:7000/shop"},
		{"postgres:///shop", full, "u:p w'\\@db.example:6000/shop"},
		{"postgres://other/shop", full, "u:p w'\\@other:5432/shop"},
		{"postgres://x:y@other:7000/shop", full, "u:p w'\\@other:7000/shop"},
		{"postgres:///shop?host=/run/pg", full, "u:p w'\\@/run/pg:5432/shop"},
		{"postgres://x@/shop", sqldb.Credential{Password: "p", Host: "::1"}, "x:p@::1:5432/shop"},
	} {
		cfg, err := config(tt.dsn, tt.cred)
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		if got := fmt.Sprintf("%s:%s@%s:%d/%s", cfg.User, cfg.Password, cfg.Host, cfg.Port, cfg.Database); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.dsn, got, tt.want)
		}
	}
	cfg, err := config("dbname=shop sslmode=verify-full", full)
	if err != nil || cfg.TLSConfig == nil || cfg.TLSConfig.ServerName != "db.example" {
		t.Errorf("with TLS, %v", err)
	}
}

func TestABadDSNIsFoundAtOnce(t *testing.T) {
	if _, err := New(nil, "db", "host=db.example port=nonsense"); err == nil || !strings.HasPrefix(err.Error(), "postgres: ") {
		t.Errorf("error %v", err)
	}
}

func open(t *testing.T, agent *sqldbtest.Agent, dsn string) *sql.DB {
	t.Helper()
	c, err := New(agent.Client, "db", dsn)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { db.Close() })
	return db
}
