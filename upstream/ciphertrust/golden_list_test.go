package ciphertrust

import (
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/upstream"
)

// The record of a client as the server has it.
const clientRecord = `{"id":"73b520df","uri":"kylo:kylo:client-management:clients:73b520df","name":"agent-7","state":"active","ca_id":"kylo:kylo:naboo:localca:5e2f3d27",
 "createdAt":"2024-06-18T09:17:06Z","updatedAt":"2024-06-18T09:17:06Z","client_type":"unregistered","cert":"-----BEGIN CERTIFICATE-----\n...","csr":"",
 "serialNumber":"320948","subject":"/CN=agent-7","sha256Fingerprint":"..","notBefore":"2024-06-17T09:20:00Z","notAfter":"2026-06-18T09:20:00Z","groups":[],"client_metadata":{}}`

// texts are the records of a list as the server wrote them.
func texts[T any](records iter.Seq2[*T, error], text func(*T) Raw) (list []string, err error) {
	for r, err := range records {
		if err != nil {
			return list, err
		}
		list = append(list, string(text(r).JSON))
	}
	return list, nil
}

// Each list as the server wants it asked for, with its filters, and its records
// with everything that they say.
func TestLists(t *testing.T) {
	for _, tt := range []struct {
		uri, record string
		list        func(c *Client, f Filter) ([]string, error)
		filter      Filter
	}{
		{"/usermgmt/users/?exclude_groups=admin&groups=nil&limit=250&return_groups=true&skip=0&username=m%2A", userRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Users(t.Context(), f), func(r *User) Raw { return r.Raw })
			},
			Filter{"username": "m*", "groups": "nil", "exclude_groups": "admin", "return_groups": "true", "email": ""}},
		{"/usermgmt/groups/?limit=250&skip=0&users=local%7C1", groupRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Groups(t.Context(), f), func(r *Group) Raw { return r.Raw })
			},
			Filter{"users": "local|1"}},
		{"/ca/local-cas?limit=250&skip=0&state=pending", pendingCA,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.CAs(t.Context(), f), func(r *CA) Raw { return r.Raw })
			},
			Filter{"state": "pending"}},
		{"/ca/external-cas?limit=250&serialNumber=168033943462&skip=0", activeCA,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.ExternalCAs(t.Context(), f), func(r *CA) Raw { return r.Raw })
			},
			Filter{"serialNumber": "168033943462"}},
		{"/ca/local-cas/root%20ca/certs?issuer=%2FCN%3Droot.example&limit=250&skip=0", certRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Certificates(t.Context(), "root ca", f), func(r *Certificate) Raw { return r.Raw })
			},
			Filter{"issuer": "/CN=root.example"}},
		{"/vault/secrets?limit=250&objectType=Secret+Data&skip=0", secretRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Secrets(t.Context(), f), func(r *Secret) Raw { return r.Raw })
			},
			Filter{"objectType": "Secret Data"}},
		{"/vault/secrets/mypass/versions?limit=250&skip=0&type=name", secretRecord,
			func(c *Client, _ Filter) ([]string, error) {
				return texts(c.Versions(t.Context(), "mypass"), func(r *Secret) Raw { return r.Raw })
			}, nil},
		{"/auth/tokens/?expired=true&labels=hostagent&limit=250&refreshed_before=-1Y-2M-5D&skip=0", tokenRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Tokens(t.Context(), f), func(r *Token) Raw { return r.Raw })
			},
			Filter{"expired": "true", "labels": "hostagent", "refreshed_before": "-1Y-2M-5D"}},
		{"/configs/properties/?limit=250&name=MAX%2A&skip=0", propertyRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Properties(t.Context(), f), func(r *Property) Raw { return r.Raw })
			},
			Filter{"name": "MAX*"}},
		{"/client-management/clients?client_id=73b520df&limit=250&skip=0", clientRecord,
			func(c *Client, f Filter) ([]string, error) {
				return texts(c.Clients(t.Context(), f), func(r *RegisteredClient) Raw { return r.Raw })
			},
			Filter{"client_id": "73b520df"}},
	} {
		t.Run(tt.uri, func(t *testing.T) {
			c, saw := golden(t, 200, nil, `{"skip":0,"limit":250,"total":1,"resources":[`+tt.record+`]}`)
			got, err := tt.list(c, tt.filter)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			same(t, got[0], tt.record)
			if saw.Method != "GET" || saw.URI != "/api/v1"+tt.uri || saw.Auth != "Bearer jwt" {
				t.Errorf("%+v, want %s", saw, tt.uri)
			}
		})
	}
}

// Pages are read until there are no more, however long the server makes them.
func TestPages(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pages []string // the answers, in turn
		skips string   // what was asked for
		users string   // what came of it
		code  upstream.Code
	}{
		{"none", []string{`{"skip":0,"limit":250,"total":0,"resources":[]}`}, "0", "", ""},
		{"shorter than asked for", []string{
			`{"skip":0,"limit":2,"total":3,"resources":[{"username":"a"},{"username":"b"}]}`,
			`{"skip":2,"limit":2,"total":3,"resources":[{"username":"c"}]}`}, "0 2", "abc", ""},
		{"the last one full", []string{
			`{"skip":0,"limit":1,"total":2,"resources":[{"username":"a"}]}`,
			`{"skip":1,"limit":1,"total":2,"resources":[{"username":"b"}]}`}, "0 1", "ab", ""},
		{"deleted meanwhile", []string{
			`{"skip":0,"limit":1,"total":9,"resources":[{"username":"a"}]}`,
			`{"skip":1,"limit":1,"total":9,"resources":[]}`}, "0 1", "a", ""},
		{"a filter that the server leaves out", []string{`{"skip":0,"limit":1,"total":9,"resources":[{"username":"a"}],"messages":["shoe is not supported"]}`}, "0", "", upstream.Invalid},
		{"refused on the way", []string{`{"skip":0,"limit":1,"total":9,"resources":[{"username":"a"}]}`, ""}, "0 1", "a", upstream.Denied},
		{"no list at all", []string{`{"resources":[7]}`}, "0", "", upstream.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var skips []string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				page := tt.pages[len(skips)]
				skips = append(skips, r.URL.Query().Get("skip"))
				if page == "" {
					w.WriteHeader(http.StatusForbidden)
				}
				fmt.Fprint(w, page)
			})
			users := ""
			var err error
			for u, failed := range c.Users(t.Context(), nil) {
				if err = failed; err == nil {
					users += u.Username
				}
			}
			if d := cmp.Diff([]string{tt.skips, tt.users}, []string{strings.Join(skips, " "), users}); d != "" || (err == nil) != (tt.code == "") || err != nil && upstream.CodeOf(err) != tt.code {
				t.Errorf("%s, %v", d, err)
			}
		})
	}
}

// A secret is rotated as its type is written, and deleted with the versions of
// before.
func TestVersionsOfASecret(t *testing.T) {
	var calls []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls = append(calls, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, strings.TrimPrefix(r.RequestURI, "/api/v1/vault/secrets/"), body)))
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/versions") && r.Method == http.MethodGet:
			fmt.Fprint(w, `{"skip":0,"limit":250,"total":2,"resources":[{"id":"new","version":1},{"id":"old","version":0}]}`)
		default:
			fmt.Fprint(w, `{"id":"new","name":"s","version":1,"dataType":"seed"}`)
		}
	})
	if s, err := c.RotateSecret(t.Context(), "s", secret.New([]byte{0, 255})); err != nil || s.Version != 1 {
		t.Error(s, err)
	}
	if err := c.DeleteSecret(t.Context(), "s"); err != nil {
		t.Error(err)
	}
	want := []string{
		"GET s?type=name", `POST s/versions?type=name {"material":"00ff"}`,
		"GET s/versions?limit=250&skip=0&type=name", "GET s?type=name", "DELETE old?type=id", "DELETE new?type=id",
	}
	if d := cmp.Diff(want, calls); d != "" {
		t.Error(d)
	}
}
