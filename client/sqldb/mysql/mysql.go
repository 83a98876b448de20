// Package mysql connects database/sql to MySQL and MariaDB with a credential of
// the agent, by the driver github.com/go-sql-driver/mysql. See package sqldb for
// what happens when the password changes.
package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/client/sqldb"
)

// New returns a connector for sql.OpenDB. The dsn is what the driver takes, such
// as
//
//	tcp(db.example:3306)/shop?tls=true&parseTime=true
//
// The password comes from the secret, and so does the user name if the secret
// has one. Where dsn names no address, the secret may.
func New(agent *client.Client, secret, dsn string) (*sqldb.Connector, error) {
	if _, err := mysql.ParseDSN(dsn); err != nil {
		return nil, fmt.Errorf("mysql: %w", err)
	}
	return sqldb.New(agent, secret, &database{dsn: dsn}), nil
}

// A database is one MySQL database.
type database struct{ dsn string }

// Driver is that of go-sql-driver.
func (d *database) Driver() driver.Driver { return &mysql.MySQLDriver{} }

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
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return c.Connect(ctx)
}

// config is what dsn and a credential say together. The address takes part in
// the parsing, because the driver derives from it whom to expect in the server's
// certificate.
func config(dsn string, cred sqldb.Credential) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(withAddress(dsn, cred))
	if err != nil {
		return nil, err
	}
	cfg.Passwd = cred.Password
	if cred.Username != "" {
		cfg.User = cred.Username
	}
	return cfg, nil
}

// withAddress is dsn, which is user@network(address)/name, with an address if it
// lacks one.
func withAddress(dsn string, cred sqldb.Credential) string {
	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 || cred.Host == "" {
		return dsn
	}
	before, after := dsn[:slash], dsn[slash:]
	at := strings.LastIndexByte(before, '@') + 1
	if strings.Contains(before[at:], "(") {
		return dsn
	}
	port := 3306
	if cred.Port != 0 {
		port = cred.Port
	}
	return before[:at] + "tcp(" + net.JoinHostPort(cred.Host, strconv.Itoa(port)) + ")" + after
}

// The errors of a login that another credential may cure.
const (
	accessDenied           = 1045
	accessDeniedNoPassword = 1698
	mustChangePassword     = 1820
	passwordExpired        = 1862
)

// Refused says that user name and password do not work.
func (d *database) Refused(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return false
	}
	switch e.Number {
	case accessDenied, accessDeniedNoPassword, mustChangePassword, passwordExpired:
		return true
	}
	return false
}
