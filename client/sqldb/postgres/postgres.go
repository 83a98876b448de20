// Package postgres connects database/sql to PostgreSQL with a credential of the
// agent, by the driver github.com/jackc/pgx/v5. See package sqldb for what
// happens when the password changes.
package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/client/sqldb"
)

// New returns a connector for sql.OpenDB. The dsn is what pgx takes, such as
//
//	host=db.example dbname=shop sslmode=verify-full sslrootcert=/etc/ssl/db.pem
//	postgres://db.example/shop?sslmode=verify-full
//
// The password comes from the secret, and so does the user name if the secret
// has one. Where dsn names no host or port, the secret may.
func New(agent *client.Client, secret, dsn string) (*sqldb.Connector, error) {
	d := &database{dsn: dsn}
	if _, err := pgx.ParseConfig(dsn); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return sqldb.New(agent, secret, d), nil
}

// A database is one PostgreSQL database.
type database struct{ dsn string }

// Driver is pgx.
func (d *database) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Login makes a connection.
func (d *database) Login(ctx context.Context, s *client.Secret) (driver.Conn, error) {
	cred, err := sqldb.CredentialOf(s)
	if err != nil {
		return nil, err
	}
	cfg, err := config(d.dsn, cred)
	if err != nil {
		return nil, err
	}
	return stdlib.GetConnector(*cfg).Connect(ctx)
}

// config is what dsn and a credential say together. The host takes part in the
// parsing, because pgx derives from it whom to expect in the server's certificate.
func config(dsn string, cred sqldb.Credential) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(withAddress(dsn, cred))
	if err != nil {
		return nil, err
	}
	cfg.Password = cred.Password
	if cred.Username != "" {
		cfg.User = cred.Username
	}
	return cfg, nil
}

// withAddress is dsn with what it lacks of host and port. Both have been checked
// to need no quotes.
func withAddress(dsn string, cred sqldb.Credential) string {
	if cred.Host == "" {
		return dsn
	}
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		// Of a key that comes twice, pgx takes the second.
		if cred.Port != 0 {
			dsn = "port=" + strconv.Itoa(cred.Port) + " " + dsn
		}
		return "host=" + cred.Host + " " + dsn
	}
	u, err := url.Parse(dsn)
	if err != nil || u.Host != "" || u.Query().Has("host") {
		return dsn
	}
	u.Host = cred.Host
	if strings.Contains(cred.Host, ":") { // IPv6
		u.Host = "[" + cred.Host + "]"
	}
	if cred.Port != 0 && !u.Query().Has("port") {
		u.Host = net.JoinHostPort(cred.Host, strconv.Itoa(cred.Port))
	}
	return u.String()
}

// Refused says that user name and password do not work: invalid_password, and
// invalid_authorization_specification, as of a role that was dropped or may not
// log in any more. The latter is also what a host gets that no line of
// pg_hba.conf lets in, which no other credential would change.
func (d *database) Refused(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	return pg.Code == "28P01" || pg.Code == "28000" && pg.Routine != "ClientAuthentication"
}
