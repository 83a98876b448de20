// Package oracle connects database/sql to Oracle Database with a credential of
// the agent, by the driver github.com/sijms/go-ora/v2, which needs no Oracle
// client. See package sqldb for what happens when the password changes.
package oracle

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	ora "github.com/sijms/go-ora/v2"
	"github.com/sijms/go-ora/v2/network"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/client/sqldb"
)

const defaultPort = 1521

// New returns a connector for sql.OpenDB. The dsn is what the driver takes, such
// as
//
//	oracle://db.example:2484/shop?SSL=true
//	oracle:///shop
//
// The password comes from the secret, and so does the user name if the secret
// has one. Where dsn names no host or port, the secret may.
func New(agent *client.Client, secret, dsn string) (*sqldb.Connector, error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "oracle" {
		return nil, errors.New("oracle: the dsn is not a URL like oracle://host:1521/service")
	}
	d := &database{dsn: u, driver: ora.NewDriver()}
	if _, err := ora.ParseConfig(d.url(sqldb.Credential{Host: "localhost"})); err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	return sqldb.New(agent, secret, d), nil
}

// A database is one Oracle service.
type database struct {
	dsn    *url.URL
	driver *ora.OracleDriver
}

// Driver is that of go-ora.
func (d *database) Driver() driver.Driver { return d.driver }

// Login makes a connection.
func (d *database) Login(ctx context.Context, s *client.Secret) (driver.Conn, error) {
	cred, err := sqldb.CredentialOf(s)
	if err != nil {
		return nil, err
	}
	c, err := d.driver.OpenConnector(d.url(cred))
	if err != nil {
		return nil, errors.New("oracle: the driver does not take the dsn") // its error may quote all of it
	}
	return c.Connect(ctx)
}

// url is what dsn and a credential say together. The driver insists on a port.
func (d *database) url(cred sqldb.Credential) string {
	u := *d.dsn
	username := cred.Username
	if username == "" {
		username = u.User.Username()
	}
	u.User = url.UserPassword(username, cred.Password)
	host, port := u.Hostname(), u.Port()
	if host == "" && !namesServer(u.Query()) {
		host = cred.Host
		if port == "" && cred.Port != 0 {
			port = strconv.Itoa(cred.Port)
		}
	}
	if port == "" {
		port = strconv.Itoa(defaultPort)
	}
	u.Host = net.JoinHostPort(host, port)
	return u.String()
}

// namesServer reports whether the options of a dsn say where the server is.
func namesServer(options url.Values) bool {
	for name := range options {
		switch strings.ToUpper(name) {
		case "SERVER", "CONNSTR", "UNIX SOCKET":
			return true
		}
	}
	return false
}

// The errors of a login that another credential may cure. A locked account
// (ORA-28000) is not one of them: it refuses the right password as well, and
// each further try may keep it locked.
const (
	nullPassword        = 1005
	invalidUserPassword = 1017
	passwordHasExpired  = 28001
)

// Refused says that user name and password do not work.
func (d *database) Refused(err error) bool {
	e, ok := errors.AsType[*network.OracleError](err)
	if !ok {
		return false
	}
	switch e.ErrCode {
	case nullPassword, invalidUserPassword, passwordHasExpired:
		return true
	}
	return false
}
