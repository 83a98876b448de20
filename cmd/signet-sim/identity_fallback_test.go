package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/signet-agent/signet/client"
)

// withFile is identityConfig and a file with the certificate in it.
var withFile = template.Must(template.Must(identityConfig.Clone()).New("with file").Parse(`{{template "identity" .}}
files:
  - {path: {{.Dir}}/host.pem, certificate: host, format: pem-chain}
`))

// scrape is what the agent tells Prometheus.
func (r *identityRig) scrape() string {
	r.Helper()
	over := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.path("signet.sock"))
	}}
	resp, err := (&http.Client{Transport: over}).Get("http://signet/metrics")
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return string(text)
}

// follow tells the next event of one type, or closes the channel if none can
// come; it follows them when it returns.
func (r *identityRig) follow(kind string) <-chan string {
	r.Helper()
	told, following := make(chan string, 1), make(chan struct{})
	ctx, stop := context.WithCancel(r.Context())
	r.Cleanup(func() {
		stop()
		for range told { // until the events are at their end
		}
	})
	go func() {
		defer close(told)
		first := true
		for e, err := range r.client.Events(ctx) {
			if err != nil {
				r.Errorf("events: %v", err)
				return
			}
			if first {
				close(following)
				first = false
			}
			if e.Type == kind {
				told <- string(e.Data)
				return
			}
		}
	}()
	r.until("event", 20*time.Second, func() bool {
		if err := r.client.Renew(ctx, "host"); err != nil {
			r.Fatal(err)
		}
		select {
		case <-following:
			return true
		default:
			return false
		}
	})
	return told
}

// A Manager that does not know a renewed certificate any more: the one before it
// is in use again, here and in the file, through a restart too; status, metrics,
// log and events say so; and the next one that works takes over.
func TestTheOldCertificateIsTheFallbackOfTheNew(t *testing.T) {
	r := newIdentityRig(t)
	r.config = withFile
	r.vars.Duration = "20d" // so near its end the Manager renews whenever it is asked
	r.enrolled()
	said := r.follow("certificate.fallback")
	certs := r.certificates()
	older, newer := certs[len(certs)-2], certs[len(certs)-1]
	inUse := func() client.Item {
		t.Helper()
		var i client.Item
		r.until("older certificate in use", 20*time.Second, func() bool {
			i, _ = r.host()
			return r.works() && i.Serial == strings.TrimLeft(older.Serial, "0")
		})
		return i
	}
	r.control("PUT", "/disowned", []string{newer.Serial}, nil)
	i := inUse()
	if i.State != "fallback" || i.Refused != strings.TrimLeft(newer.Serial, "0") || !strings.Contains(i.Hint, "is refused") || i.NextAction != "renew" {
		t.Errorf("%+v", i)
	}
	if m := r.scrape(); !strings.Contains(m, `signet_certificate_fallback{certificate="host"} 1`) {
		t.Error("not in the metrics")
	}
	var e string
	r.until("event of the fallback", 20*time.Second, func() bool {
		select {
		case e = <-said:
			return true
		default:
			return false
		}
	})
	if !strings.Contains(e, `"error":"`) || !strings.Contains(e, strings.TrimLeft(older.Serial, "0")) {
		t.Errorf("event %s", e)
	}
	onDisk := func() []byte {
		t.Helper()
		text, err := os.ReadFile(r.path("host.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return block.Bytes
	}
	if !bytes.Equal(onDisk(), older.DER) {
		t.Error("the file has another certificate")
	}
	r.kill()
	r.start()
	if i := inUse(); i.State != "fallback" || !bytes.Equal(onDisk(), older.DER) {
		t.Errorf("after a restart: %s", i.State)
	}
	if err := r.client.Renew(t.Context(), "host"); err != nil {
		t.Fatal(err)
	}
	if i, _ := r.host(); i.State != "valid" || i.Refused != "" || !r.works() || bytes.Equal(onDisk(), older.DER) {
		t.Errorf("after a renewal: %+v", i)
	}
	if strings.Contains(r.scrape(), `signet_certificate_fallback{certificate="host"} 1`) {
		t.Error("still in the metrics")
	}
	r.until("one key", 10*time.Second, func() bool { return len(r.privateKeys()) == 1 })
}
