package mysql

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/signet-agent/signet/client/sqldb"
	"github.com/signet-agent/signet/client/sqldb/sqldbtest"
)

// The password of a real MariaDB changes under load, by TCP and by Unix socket,
// and no query fails.
func TestNoQueryFailsWhenThePasswordChanges(t *testing.T) {
	server := sqldbtest.MariaDB(t)
	server.Exec("CREATE DATABASE shop")
	server.Exec(`CREATE USER app IDENTIFIED BY 'p@ss/(0'`)
	server.Exec("GRANT ALL ON shop.* TO app")
	agent := sqldbtest.NewAgent(t, map[string]string{"username": "app", "password": "p@ss/(0", "hostname": "127.0.0.1", "port": fmt.Sprint(server.Port)})
	for name, dsn := range map[string]string{
		"tcp, address from the secret": "/shop",
		"unix socket":                  "unix(" + server.Socket + ")/shop",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(agent.Client, "db", dsn)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(c)
			defer db.Close()
			sqldbtest.RotateUnderLoad(t, db, agent, func(password string) {
				server.Exec("ALTER USER app IDENTIFIED BY '" + strings.ReplaceAll(password, "'", "''") + "'")
			})
		})
	}
	t.Run("a wrong password is an error", func(t *testing.T) {
		agent.Rotate("wrong")
		agent.Learn()
		c, err := New(agent.Client, "db", "tcp(127.0.0.1:"+fmt.Sprint(server.Port)+")/shop")
		if err != nil {
			t.Fatal(err)
		}
		c.Patience = -1
		db := sql.OpenDB(c)
		defer db.Close()
		for { // until this process has heard of the new version
			if s, err := agent.Client.Secret(t.Context(), "db"); err != nil || s.Fields["password"] == "wrong" {
				break
			}
			<-time.After(time.Millisecond)
		}
		err = db.PingContext(t.Context())
		if e, ok := errors.AsType[*mysql.MySQLError](err); !ok || e.Number != 1045 || strings.Contains(err.Error(), "wrong") {
			t.Errorf("error %v", err)
		}
	})
}

func TestRefused(t *testing.T) {
	d := &database{}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"wrong password", &mysql.MySQLError{Number: 1045}, true},
		{"in a chain", fmt.Errorf("x: %w", &mysql.MySQLError{Number: 1045}), true},
		{"no password where one is wanted", &mysql.MySQLError{Number: 1698}, true},
		{"password expired", &mysql.MySQLError{Number: 1862}, true},
		{"no right to the database", &mysql.MySQLError{Number: 1044}, false},
		{"no such database", &mysql.MySQLError{Number: 1049}, false},
		{"too many connections", &mysql.MySQLError{Number: 1040}, false},
		{"account locked", &mysql.MySQLError{Number: 3118}, false},
		{"account locked, MariaDB", &mysql.MySQLError{Number: 4151}, false},
		{"unreachable", errors.New("connection refused"), false},
	} {
		if got := d.Refused(tt.err); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestConfig(t *testing.T) {
	full := sqldb.Credential{Username: "u", Password: "p@/(", Host: "db.example", Port: 6000}
	for _, tt := range []struct {
		dsn  string
		cred sqldb.Credential
		want string
	}{
		{"/shop", full, "u:p@/(@tcp(db.example:6000)/shop"},
		{"x:y@/shop", full, "u:p@/(@tcp(db.example:6000)/shop"},
		{"tcp/shop", full, "u:p@/(@tcp(db.example:6000)/shop"},
		{"tcp(other:7000)/shop", full, "u:p@/(@tcp(other:7000)/shop"},
		{"unix(/run/my.sock)/shop", full, "u:p@/(@unix(/run/my.sock)/shop"},
		{"x@/shop", sqldb.Credential{Password: "p", Host: "::1"}, "x:p@tcp([::1]:3306)/shop"},
		{"/shop", sqldb.Credential{Password: "p"}, ":p@tcp(127.0.0.1:3306)/shop"},
	} {
		cfg, err := config(tt.dsn, tt.cred)
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		if got := fmt.Sprintf("%s:%s@%s(%s)/%s", cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.dsn, got, tt.want)
		}
	}
	cfg, err := config("/shop?tls=true", full)
	if err != nil || cfg.TLS == nil || cfg.TLS.ServerName != "db.example" {
		t.Errorf("with TLS, %v", err)
	}
}

func TestABadDSNIsFoundAtOnce(t *testing.T) {
	if _, err := New(nil, "db", "nonsense"); err == nil || !strings.HasPrefix(err.Error(), "mysql: ") {
		t.Errorf("error %v", err)
	}
}
