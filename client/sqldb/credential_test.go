package sqldb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/signet-agent/signet/client"
)

func TestCredentialOf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields map[string]string
		want   Credential
		err    string
	}{
		{"all", map[string]string{"username": "u", "password": "p", "hostname": "h", "ip": "10.0.0.1", "port": "5432"}, Credential{"u", "p", "h", 5432}, ""},
		{"the name of the host goes before its address", map[string]string{"password": "p", "ip": "::1", "hostname": ""}, Credential{"", "p", "::1", 0}, ""},
		{"host goes first", map[string]string{"password": "p", "host": "a", "hostname": "b"}, Credential{"", "p", "a", 0}, ""},
		{"no password", map[string]string{"username": "u"}, Credential{}, `secret "db": field "password": no such field`},
		{"an empty password", map[string]string{"password": ""}, Credential{}, `secret "db": field "password": no such field`},
		{"a host that is none", map[string]string{"password": "p", "host": "a b=c"}, Credential{}, `secret "db": field "host": not the name of a host`},
		{"a port that is none", map[string]string{"password": "p", "port": "70000"}, Credential{}, `secret "db": field "port": not a port`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CredentialOf(&client.Secret{Name: "db", Fields: tt.fields})
			if got != tt.want || err == nil && tt.err != "" || err != nil && err.Error() != tt.err {
				t.Errorf("got %v, error %v", got, err)
			}
		})
	}
	if _, err := CredentialOf(&client.Secret{}); !errors.Is(err, errNoField) {
		t.Errorf("error %v", err)
	}
}

func TestCredentialsDoNotPrint(t *testing.T) {
	c := Credential{Username: "u", Password: "hunter2"}
	if s := fmt.Sprintf("%v %+v %#v %s %v", c, c, c, &c, []any{c}); strings.Contains(s, "hunter2") {
		t.Error(s)
	}
}
