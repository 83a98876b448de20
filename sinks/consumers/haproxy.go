package consumers

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// HAProxy replaces a certificate through the runtime socket, without a reload.
// It lasts as long as the process does; the file that was delivered is what the
// next one reads.
type HAProxy struct {
	// Socket is the path of the runtime socket, with level admin.
	Socket string
	// Cert is the name that HAProxy knows the certificate by.
	Cert string
	// Read gives that file: certificate, chain and key. Whoever may write to its
	// directory could else have another's key sent, so what was not delivered
	// must be an error.
	Read func() ([]byte, error)
}

func (h HAProxy) String() string { return "haproxy " + h.Socket + " " + h.Cert }

// Reload is for Way.
func (h HAProxy) Reload(ctx context.Context) error {
	content, err := h.Read()
	if err != nil {
		return err
	}
	bundle, leaf, err := payload(content)
	if err != nil {
		return fmt.Errorf("the file for %s: %w", h.Cert, err)
	}
	answer, err := h.ask(ctx, "set ssl cert "+h.Cert+" <<\n"+bundle+"\n")
	if err == nil && !strings.Contains(answer, "Transaction ") {
		err = fmt.Errorf("set ssl cert: %s", clean(answer))
	}
	if err == nil {
		answer, err = h.ask(ctx, "commit ssl cert "+h.Cert)
	}
	if err == nil && !strings.Contains(answer, "Success") {
		err = fmt.Errorf("commit ssl cert: %s", clean(answer))
	}
	if err != nil {
		// A transaction that is left open keeps others from theirs.
		actx, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer done()
		_, _ = h.ask(actx, "abort ssl cert "+h.Cert) // there may be none
		return err
	}
	return h.verify(ctx, leaf)
}

// verify asks for the serial number of what is in use.
func (h HAProxy) verify(ctx context.Context, leaf *x509.Certificate) error {
	answer, err := h.ask(ctx, "show ssl cert "+h.Cert)
	if err != nil {
		return err
	}
	for line := range strings.Lines(answer) {
		if text, ok := strings.CutPrefix(line, "Serial: "); ok {
			serial, ok := new(big.Int).SetString(strings.TrimSpace(text), 16)
			if ok && serial.Cmp(leaf.SerialNumber) == 0 {
				return nil
			}
			return fmt.Errorf("it has serial %s and not %s", clean(text), serialOf(leaf))
		}
	}
	return fmt.Errorf("show ssl cert: %s", clean(answer))
}

// Check is for Way.
func (h HAProxy) Check(ctx context.Context) error {
	answer, err := h.ask(ctx, "show ssl cert "+h.Cert)
	if err == nil && !strings.Contains(answer, "Serial: ") {
		err = withHint("it needs `level admin`, and a bind line that names "+h.Cert, "show ssl cert: %s", clean(answer))
	}
	return err
}

// ask sends one command and reads the answer, which ends with the connection.
func (h HAProxy) ask(ctx context.Context, command string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", h.Socket)
	if err != nil {
		return "", withHint("HAProxy does not run, or the agent may not use its `stats socket`", "%w", orNotRunning(err))
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline) // it cannot fail on an open connection
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err = io.WriteString(c, command+"\n"); err != nil {
		return "", fmt.Errorf("write to %s: %w", h.Socket, plainNet(ctx, err))
	}
	answer, err := io.ReadAll(io.LimitReader(c, 1<<20))
	if err != nil {
		return "", fmt.Errorf("read from %s: %w", h.Socket, plainNet(ctx, err))
	}
	return string(answer), nil
}

func plainNet(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return errTimeLimit
	}
	return err
}

// payload makes one of a PEM file: its blocks and nothing else. An empty line
// would end the payload, and HAProxy would take what follows, key included, for
// commands.
func payload(b []byte) (text string, leaf *x509.Certificate, err error) {
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if len(block.Headers) > 0 || len(block.Bytes) == 0 {
			return "", nil, fmt.Errorf("a %s in it is not as HAProxy reads it", block.Type)
		}
		if err := pem.Encode(&out, block); err != nil {
			return "", nil, err
		}
		if leaf == nil && block.Type == "CERTIFICATE" {
			if leaf, err = x509.ParseCertificate(block.Bytes); err != nil {
				return "", nil, err
			}
		}
	}
	if leaf == nil {
		return "", nil, errors.New("there is no certificate in it")
	}
	return out.String(), leaf, nil
}
