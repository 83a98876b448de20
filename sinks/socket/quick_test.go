package socket

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// FuzzQuick holds that what is answered without net/http means the same to it:
// the same secret, nothing that is refused, and the next request begins at the
// same byte.
func FuzzQuick(f *testing.F) {
	for _, s := range []string{
		"GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n\r\n", "GET /v1/secrets/db HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\nGET /v1/",
		"GET /v1/secrets/d%62 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v1/secrets/db HTTP/1.1\r\nhOst: x\r\nUser-Agent:  a\r\nContent-Length: 3\r\n\r\nabc",
		"GET /v1/secrets/.. HTTP/1.1\r\nHost: x\r\nOrigin: y\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		name, rest, ok := plainGet(in)
		if !ok {
			return
		}
		br := bufio.NewReader(bytes.NewReader(in))
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("%q: net/http says %v", in, err)
		}
		if err := checkOrigin(r); err != nil || r.Method != "GET" || r.URL.Path != "/v1/secrets/"+string(name) || r.URL.RawQuery != "" || r.ContentLength != 0 || r.Close {
			t.Fatalf("%q: net/http has %s %s, %v", in, r.Method, r.URL, err)
		}
		if r.Header.Get("If-None-Match") != "" || strings.Contains(r.Header.Get("Accept"), "octet") {
			t.Fatalf("%q is answered with a body in JSON", in)
		}
		if left, _ := io.ReadAll(br); !bytes.Equal(left, rest) {
			t.Fatalf("%q: the rest is %q, for net/http %q", in, rest, left)
		}
	})
}

// An answer is the same, whoever gives it, but for the order of the headers.
func TestQuickAnswersAsNetHTTPDoes(t *testing.T) {
	rig := start(t, &fake{}, tester(false))
	rig.PublishSecret(db("1"))
	ask := func(head string) (*http.Response, string) {
		c, err := net.Dial("unix", rig.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n%s\r\n", head)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	quick, quickBody := ask("Accept: */*\r\n")
	slow, slowBody := ask("X-Other: y\r\n")
	if quickBody != slowBody || quick.StatusCode != slow.StatusCode || quick.ContentLength != slow.ContentLength {
		t.Errorf("%d %q, and %d %q", quick.StatusCode, quickBody, slow.StatusCode, slowBody)
	}
	if at, err := http.ParseTime(quick.Header.Get("Date")); err != nil || time.Since(at) > time.Minute {
		t.Errorf("date %q", quick.Header.Get("Date"))
	}
	quick.Header.Del("Date")
	slow.Header.Del("Date")
	if fmt.Sprint(quick.Header) != fmt.Sprint(slow.Header) {
		t.Errorf("%v, and %v", quick.Header, slow.Header)
	}
}

// What goes to net/http goes there whole, and with the answers in order.
func TestQuickHandsOverWhatItDoesNotKnow(t *testing.T) {
	rig := start(t, &fake{}, tester(false))
	rig.PublishSecret(db("1"))
	c, err := net.Dial("unix", rig.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	plain := "GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n\r\n"
	fmt.Fprint(c, plain+plain+"GET /v1/healthz HTTP/1.1\r\nHost: signet\r\n\r\n"+plain+"POST /v1/secrets/db/refused HTTP/1.1\r\nHost: signet\r\nContent-Length: 15\r\n\r\n"+`{"version":"0"}`)
	in := bufio.NewReader(c)
	for i, want := range []string{`"name":"db"`, `"name":"db"`, `"status":"ok"`, `"name":"db"`, `"name":"db"`} {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || !bytes.Contains(body, []byte(want)) {
			t.Errorf("answer %d: %d %s", i, resp.StatusCode, body)
		}
	}
}

// A reader who does not read, and one who has nothing to ask, do not keep the
// server from stopping in time.
func TestQuickConnectionsEndWithTheServer(t *testing.T) {
	r := start(t, &fake{}, tester(false))
	big := db("1")
	big.Fields = sinks.FieldsOf(map[string]secret.Value{"password": secret.New(bytes.Repeat([]byte("x"), 8<<20))})
	r.PublishSecret(big)
	for _, ask := range []string{"", "GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n\r\n"} {
		c, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, ask)
		if ask != "" { // the answer has begun, and is more than the socket holds
			if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	r.stop()
	err := <-r.served
	r.served <- err // for the clean-up
	if d := time.Since(began); err != nil || d > 2*stopTimeout {
		t.Errorf("stopped after %v, %v", d, err)
	}
}
