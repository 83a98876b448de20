package consumers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// A Proof is a connection to a consumer that shows which certificate it serves.
// The zero Proof is none.
type Proof struct {
	// Address is HOST:PORT.
	Address string
	// ServerName is the name asked for, which has to be one that the certificate
	// is for; "" is the host of Address.
	ServerName string
	// StartTLS is postgres, smtp or imap; "" and none are TLS from the start.
	StartTLS string
	// Within is how long the consumer has; 0 is 20 seconds.
	Within time.Duration
	// Connections is how many in a row must show it; 0 is one.
	Connections int
}

func (p Proof) none() bool { return p.Address == "" }

func (p Proof) limit() time.Duration {
	if p.Within == 0 {
		return 20 * time.Second
	}
	return p.Within
}

// name is what the certificate has to be for.
func (p Proof) name() string {
	if p.ServerName != "" {
		return p.ServerName
	}
	host, _, _ := net.SplitHostPort(p.Address) // else no connection is made
	return host
}

// proofPause is between two looks at a consumer that still serves the old one.
const proofPause = 100 * time.Millisecond

// make connects until the consumer serves one of the leaves throughout, or time
// is up, or stop says so. Of several leaves it has to be one of those that are
// for the name.
func (p Proof) make(ctx context.Context, leaves [][]byte, stop func() bool) error {
	all, err := parseAll(leaves)
	if err != nil {
		return err
	}
	pinned := slices.DeleteFunc(slices.Clone(all), func(c *x509.Certificate) bool { return c.VerifyHostname(p.name()) != nil })
	if len(pinned) == 0 {
		pinned = all // the connection tells that the name is wrong
	}
	deadline := time.Now().Add(p.limit())
	ctx, done := context.WithDeadline(ctx, deadline)
	defer done()
	for last := error(nil); ; {
		err := p.all(ctx, pinned)
		if err == nil || errors.Is(err, errUseless) {
			return err
		}
		if time.Now().Before(deadline) || last == nil { // else this look may have been cut short
			last = err
		}
		if stop() || !sleep(ctx, proofPause) {
			return fmt.Errorf("not within %v: %w", p.limit(), last)
		}
	}
}

// all makes the connections, each of which has to show the new certificate: a
// consumer with several workers may serve the old one from some.
func (p Proof) all(ctx context.Context, pinned []*x509.Certificate) error {
	for range max(1, p.Connections) {
		if err := p.connect(ctx, pinned); err != nil {
			return err
		}
	}
	return nil
}

// errUseless is a certificate that is the delivered one, and that clients
// nevertheless refuse. Waiting does not help.
var errUseless = errors.New("the new certificate is served, and clients refuse it")

// connect makes one connection. The delivered leaves are the only certificates
// it trusts, as roots: any other leaf fails, whoever signed it, and none needs
// the roots of this host.
func (p Proof) connect(ctx context.Context, pinned []*x509.Certificate) error {
	ctx, done := context.WithTimeout(ctx, 5*time.Second) // a connection that hangs must not use up all the time
	defer done()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return withHint("the consumer does not run, or listens elsewhere", "%w", err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := startTLS(raw, p.StartTLS); err != nil {
		return fmt.Errorf("%s: starttls %s: %w", p.Address, p.StartTLS, plainNet(ctx, err))
	}
	pool := x509.NewCertPool()
	for _, c := range pinned {
		pool.AddCert(c)
	}
	seen := false
	conn := tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: p.name(), MinVersion: tls.VersionTLS12,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if seen = slices.ContainsFunc(pinned, cs.PeerCertificates[0].Equal); !seen {
				return errors.New("not the delivered certificate")
			}
			return nil
		}})
	err = conn.HandshakeContext(ctx)
	if op, ok := errors.AsType[*net.OpError](err); ok && seen && op.Op == "remote error" {
		return nil // it wants a certificate of us, but has shown its own
	}
	return p.explain(err, pinned)
}

// explain says what is served in place of what was delivered.
func (p Proof) explain(err error, pinned []*x509.Certificate) error {
	if err == nil {
		return nil
	}
	bad, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(bad.UnverifiedCertificates) == 0 {
		return fmt.Errorf("%s: %w", p.Address, err)
	}
	served := bad.UnverifiedCertificates[0]
	if slices.ContainsFunc(pinned, served.Equal) {
		return withHint("server_name must be one of the certificate's names", "%s as %q: %w: %w", p.Address, p.name(), errUseless, bad.Err)
	}
	return withHint("its log says why it did not take up the new files, such as who may read the key",
		"%s as %q serves serial %s and not %s", p.Address, p.name(), serialOf(served), serials(pinned))
}

// serials are those of certificates, any of which would do.
func serials(cs []*x509.Certificate) string {
	var out []string
	for _, c := range cs {
		out = append(out, serialOf(c))
	}
	return strings.Join(out, " or ")
}

// serialOf is a serial number as the agent shows it: whole bytes in hex.
func serialOf(c *x509.Certificate) string {
	s := c.SerialNumber.Text(16)
	if len(s)%2 != 0 {
		s = "0" + s
	}
	return s
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// startTLS asks for TLS in the way of a protocol. Nothing that comes after the
// answer may be read here, and nothing does: the server waits for the client.
func startTLS(c net.Conn, protocol string) error {
	in := bufio.NewReaderSize(io.LimitReader(c, 64<<10), 4<<10)
	switch protocol {
	case "postgres":
		if _, err := c.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
			return err
		}
		answer, err := in.ReadByte()
		if err == nil && answer != 'S' {
			err = withHint("ssl = on is missing in postgresql.conf", "the server answers %q", answer)
		}
		return err
	case "smtp":
		return converse(c, in, "220 ", "EHLO localhost\r\n", "250 ", "STARTTLS\r\n", "220 ")
	case "imap":
		return converse(c, in, "* ", "a STARTTLS\r\n", "a OK ")
	}
	return nil
}

// converse waits for a line that begins with steps[0], sends steps[1], and so
// on. Lines of other beginnings are skipped, unless they say no.
func converse(c net.Conn, in *bufio.Reader, steps ...string) error {
	for i, step := range steps {
		if i%2 == 1 {
			if _, err := io.WriteString(c, step); err != nil {
				return err
			}
			continue
		}
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if bytes.HasPrefix(line, []byte(step)) {
				break
			}
			if strings.ContainsAny(string(line[:1]), "45") || bytes.HasPrefix(line, []byte("a ")) {
				return fmt.Errorf("the server answers %q", clean(string(line)))
			}
		}
	}
	return nil
}

// sleep waits for d, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
