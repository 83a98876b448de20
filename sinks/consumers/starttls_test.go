package consumers

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/sinks"
)

// A speech is what a server does before TLS: it sends what begins with "S: ",
// and wants what begins with "C: ".
type speech []string

// serveSpeech is a server that follows a speech and goes on with TLS, unless it
// ends with a refusal.
func serveSpeech(t *testing.T, s speech, c *sinks.Certificate) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	cfg := config(t, c)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if s.follow(c) {
					_ = tls.Server(c, cfg).Handshake() // the client judges
				}
			}()
		}
	}()
	return l.Addr().String()
}

func (s speech) follow(c net.Conn) bool {
	in := bufio.NewReader(c)
	for _, step := range s {
		text, wanted := strings.CutPrefix(step, "C: ")
		if !wanted {
			if _, err := io.WriteString(c, strings.TrimPrefix(step, "S: ")); err != nil {
				return false
			}
			continue
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
			return false
		}
	}
	return in.Buffered() == 0 // nothing may come before the server has agreed
}

// once has a proof look once: how long it may take is of no account.
func once() bool { return true }

// A proof asks for TLS as each protocol wants it, skips what a server says
// besides, and tells what it answers when it does not want to.
func TestProofAfterStartTLS(t *testing.T) {
	c := newCA(t).issue(t, "web.example")
	for _, tt := range []struct {
		name, protocol string
		speech         speech
		want           string // in the error; "" is proven
	}{
		{"postgres", "postgres", speech{"C: \x00\x00\x00\x08\x04\xd2\x16\x2f", "S: S"}, ""},
		{"postgres without TLS", "postgres", speech{"C: \x00\x00\x00\x08\x04\xd2\x16\x2f", "S: N"}, `the server answers 'N'`},
		{"smtp", "smtp", speech{"S: 220-web.example\r\n220 ESMTP\r\n", "C: EHLO localhost\r\n", "S: 250-web.example\r\n250-STARTTLS\r\n250 SMTPUTF8\r\n",
			"C: STARTTLS\r\n", "S: 220 ready\r\n"}, ""},
		{"smtp without TLS", "smtp", speech{"S: 220 ESMTP\r\n", "C: EHLO localhost\r\n", "S: 250 web.example\r\n", "C: STARTTLS\r\n", "S: 454 no TLS today\r\n"},
			`the server answers "454 no TLS today"`},
		{"smtp that is full", "smtp", speech{"S: 421 too many connections\r\n"}, `the server answers "421 too many connections"`},
		{"imap", "imap", speech{"S: * OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", "C: a STARTTLS\r\n", "S: * CAPABILITY IMAP4rev1\r\na OK begin\r\n"}, ""},
		{"imap without TLS", "imap", speech{"S: * OK ready\r\n", "C: a STARTTLS\r\n", "S: a BAD no\r\n"}, `the server answers "a BAD no"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Proof{Address: serveSpeech(t, tt.speech, c), ServerName: "web.example", StartTLS: tt.protocol, Within: 10 * time.Second}
			err := p.make(t.Context(), c.Chain[:1], once)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
