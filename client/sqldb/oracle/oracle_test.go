package oracle

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	ora "github.com/sijms/go-ora/v2"
	"github.com/sijms/go-ora/v2/network"

	"github.com/signet-agent/signet/client/sqldb"
	"github.com/signet-agent/signet/client/sqldb/sqldbtest"
)

func TestRefused(t *testing.T) {
	d := &database{}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"invalid username/password", &network.OracleError{ErrCode: 1017}, true},
		{"in a chain", fmt.Errorf("x: %w", &network.OracleError{ErrCode: 1017}), true},
		{"null password", &network.OracleError{ErrCode: 1005}, true},
		{"password expired", &network.OracleError{ErrCode: 28001}, true},
		{"account locked: a retry would keep it so", &network.OracleError{ErrCode: 28000}, false},
		{"password will expire", &network.OracleError{ErrCode: 28002}, false},
		{"no right to create a session", &network.OracleError{ErrCode: 1045}, false},
		{"no matching protocol", &network.OracleError{ErrCode: 28040}, false},
		{"starting up", &network.OracleError{ErrCode: 1033}, false},
		{"not there", &network.OracleError{ErrCode: 1034}, false},
		{"too many sessions", &network.OracleError{ErrCode: 18}, false},
		{"no such service", &network.OracleError{ErrCode: 12514}, false},
		{"unreachable", errors.New("connection refused"), false},
	} {
		if got := d.Refused(tt.err); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestURL(t *testing.T) {
	full := sqldb.Credential{Username: "u:1", Password: "p@ss/:w?%", Host: "db.example", Port: 2484}
	for _, tt := range []struct {
		dsn  string
		cred sqldb.Credential
		want string
	}{
		{"oracle:///shop", full, "u:1 p@ss/:w?% [{db.example 2484}] shop"},
		{"oracle://other/shop", full, "u:1 p@ss/:w?% [{other 1521}] shop"},
		{"oracle://x:y@other:7000/shop?SSL=true", full, "u:1 p@ss/:w?% [{other 7000}] shop"},
		{"oracle://x@/shop", sqldb.Credential{Password: "p", Host: "::1"}, "x p [{::1 1521}] shop"},
		{"oracle:///shop?server=a:1&server=b:2", sqldb.Credential{Username: "u", Password: "p", Host: "h"}, "u p [{a 1} {b 2}] shop"},
	} {
		if _, err := New(nil, "db", tt.dsn); err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
		}
		d := &database{dsn: parsed(t, tt.dsn)}
		cfg, err := ora.ParseConfig(d.url(tt.cred))
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		var servers []string
		for _, s := range cfg.Servers {
			servers = append(servers, fmt.Sprintf("{%s %d}", s.Addr, s.Port))
		}
		if got := fmt.Sprintf("%s %s %v %s", cfg.UserID, cfg.Password, servers, cfg.ServiceName); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.dsn, got, tt.want)
		}
	}
}

func TestABadDSNIsFoundAtOnce(t *testing.T) {
	for dsn, want := range map[string]string{
		"db.example:1521/shop":     "oracle: the dsn is not a URL like oracle://host:1521/service",
		"postgres://db.example/":   "oracle: the dsn is not a URL like oracle://host:1521/service",
		"oracle:///shop?colour=no": "oracle: unknown URL option: colour",
	} {
		if _, err := New(nil, "db", dsn); err == nil || err.Error() != want {
			t.Errorf("%s: error %v", dsn, err)
		}
	}
}

// The connection goes where the secret says, and what is answered there reaches
// the caller as the driver's error. Only one that another credential may cure is
// reported to the agent, and then the credential that it has now is tried once.
func TestAServerThatRefuses(t *testing.T) {
	for _, tt := range []struct {
		name           string
		code           int
		reports, tries int
	}{
		{"wrong password", 1017, 1, 2},
		{"password expired", 28001, 1, 2},
		{"account locked", 28000, 0, 1},
		{"no such service", 12514, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var tries atomic.Int64
			go refuse(l, fmt.Sprintf("(DESCRIPTION=(TMP=)(VSNNUM=0)(ERR=%[1]d)(ERROR_STACK=(ERROR=(CODE=%[1]d)(EMFI=4))))", tt.code), &tries)
			_, port, _ := net.SplitHostPort(l.Addr().String()) // which is one
			agent := sqldbtest.NewAgent(t, map[string]string{"username": "app", "password": "hunter2", "ip": "127.0.0.1", "port": port})
			agent.Rotate("hunter3")
			c, err := New(agent.Client, "db", "oracle:///shop")
			if err != nil {
				t.Fatal(err)
			}
			c.Patience = -1
			db := sql.OpenDB(c)
			defer db.Close()
			err = db.PingContext(t.Context())
			e, ok := errors.AsType[*network.OracleError](err)
			if !ok || e.ErrCode != tt.code || !strings.HasPrefix(err.Error(), `log in with secret "db" version "`) || strings.Contains(err.Error(), "hunter") {
				t.Errorf("error %v", err)
			}
			if got := int(tries.Load()); agent.Reports() != tt.reports || got != tt.tries {
				t.Errorf("%d reports, %d tries; want %d, %d", agent.Reports(), got, tt.reports, tt.tries)
			}
		})
	}
}

// refuse answers each connection like a listener, by a TNS packet of type 4, and
// counts them.
func refuse(l net.Listener, reason string, tries *atomic.Int64) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		tries.Add(1)
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err == nil {
			_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint16(head))-2) // the client waits for the answer anyhow
			packet := binary.BigEndian.AppendUint16(nil, uint16(12+len(reason)))
			packet = append(packet, 0, 0, 4, 0, 0, 0, 1, 0)
			packet = binary.BigEndian.AppendUint16(packet, uint16(len(reason)))
			_, _ = conn.Write(append(packet, reason...))
		}
		conn.Close()
	}
}

func parsed(t *testing.T, dsn string) *url.URL {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
