package consumers

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/signet-agent/signet/internal/secret"
)

// Redis has a server read its certificate and key again, by setting their names
// to what they are.
type Redis struct {
	// Address is HOST:PORT, or the path of a Unix socket.
	Address string
	// CAFile holds the certificates that the server's has to lead to; "" is a
	// connection without TLS.
	CAFile string
	// Username and Password log in; a nil Password is no log-in.
	Username string
	Password func() (secret.Value, error)
	// CertFile and KeyFile are the values of tls-cert-file and tls-key-file.
	CertFile, KeyFile string
}

func (r Redis) String() string {
	return strings.TrimSpace(strings.Join([]string{"redis", r.Address, r.CertFile, r.KeyFile, r.Username, r.CAFile}, " "))
}

// Reload is for Way. Both names go in one command: with two, the server would
// see a pair that does not match in between.
func (r Redis) Reload(ctx context.Context) error {
	return r.call(ctx, "CONFIG", "SET", "tls-cert-file", r.CertFile, "tls-key-file", r.KeyFile)
}

// Check is for Way.
func (r Redis) Check(ctx context.Context) error { return r.call(ctx, "CONFIG", "GET", "tls-cert-file") }

// call logs in and makes one call, whose answer may be anything but an error.
func (r Redis) call(ctx context.Context, args ...string) error {
	c, err := r.dial(ctx)
	if err != nil {
		return withHint("Redis does not run, or does not listen there", "%w", orNotRunning(err))
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	in := bufio.NewReader(c)
	if r.Password != nil {
		password, err := r.Password()
		if err != nil {
			return fmt.Errorf("password: %w", err)
		}
		login := []string{"AUTH", string(password.Reveal())}
		if r.Username != "" {
			login = []string{"AUTH", r.Username, string(password.Reveal())}
		}
		if err := roundTrip(ctx, c, in, login); err != nil {
			return err
		}
	}
	return roundTrip(ctx, c, in, args)
}

func (r Redis) dial(ctx context.Context) (net.Conn, error) {
	network := "tcp"
	if filepath.IsAbs(r.Address) {
		network = "unix"
	}
	if r.CAFile == "" {
		return new(net.Dialer).DialContext(ctx, network, r.Address)
	}
	text, err := os.ReadFile(r.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %v", err) // which is not about whether the server runs
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: there is no certificate in it", r.CAFile)
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return d.DialContext(ctx, network, r.Address)
}

// roundTrip sends a command as RESP has it and reads the first line of the
// answer. An error names the command, never its arguments. The server may: it
// repeats those of a command that it does not know. So of what it says to a
// log-in only the kind of the error is told.
func roundTrip(ctx context.Context, c net.Conn, in *bufio.Reader, args []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		b.WriteString("$" + strconv.Itoa(len(a)) + "\r\n" + a + "\r\n")
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		return fmt.Errorf("%s: %w", args[0], plainNet(ctx, err))
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], plainNet(ctx, err))
	}
	if text, failed := strings.CutPrefix(line, "-"); failed {
		if args[0] == "AUTH" {
			return withHint("see whether the server takes AUTH, and give username and password of the reload", "AUTH: the server answers %s", loginError(text))
		}
		return &hinted{fmt.Errorf("%s: %w", args[0], errors.New(clean(text))), redisHint(text)}
	}
	return nil
}

// loginError is the kind of an error, if it is one that Redis has.
func loginError(text string) string {
	kind, _, _ := strings.Cut(text, " ")
	switch kind {
	case "ERR", "WRONGPASS", "NOAUTH", "NOPERM", "DENIED", "LOADING", "BUSY", "MASTERDOWN":
		return kind
	}
	return "with an error"
}

// redisHint is what can be done about an answer.
func redisHint(text string) string {
	switch {
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"):
		return "give username and password of the reload"
	case strings.HasPrefix(text, "NOPERM"):
		return "the user needs +config|set and +config|get"
	case strings.Contains(text, "TLS configuration"):
		return "the server's log says why; it must be able to read both files, and they must be a pair"
	}
	return ""
}
