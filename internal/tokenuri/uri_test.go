package tokenuri

import (
	"strings"
	"testing"
)

// TestParse holds that a URI is understood as RFC 7512 has it, or refused.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		want URI
		err  string
	}{
		{in: "pkcs11:token=signet", want: URI{Label: "signet"}},
		{in: "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=a+b",
			want: URI{Label: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Serial: "a+b"}},
		{in: "pkcs11:serial=1?pin-source=file:/etc/token&module-path=/usr/lib/m.so",
			want: URI{Serial: "1", PINFile: "/etc/token", Module: "/usr/lib/m.so"}},
		{in: "pkcs11:serial=1?pin-source=file:///etc/token", want: URI{Serial: "1", PINFile: "/etc/token"}},
		{in: "pkcs11:serial=1?pin-source=/etc/token", want: URI{Serial: "1", PINFile: "/etc/token"}},
		{in: "pkcs11:", want: URI{}},
		{in: "token=signet", err: "not start with pkcs11"},
		{in: "pkcs11:slot-id=3", err: "not chosen by slot"},
		{in: "pkcs11:token=a;object=b", err: "names an object"},
		{in: "pkcs11:token=a?pin-value=1234", err: "does not belong here"},
		{in: "pkcs11:token=a?pin-source=|cat%20pin", err: "not run"},
		{in: "pkcs11:token=a?pin-source=file://host/pin", err: "not a local file"},
		{in: "pkcs11:token=a?pin-source=pin", err: "not an absolute path"},
		{in: "pkcs11:token=a?module-path=m.so", err: "not an absolute path"},
		{in: "pkcs11:token=a;token=b", err: "twice"},
		{in: "pkcs11:token=", err: "empty"},
		{in: "pkcs11:token", err: "not name=value"},
		{in: "pkcs11:token=%zz", err: "token"},
		{in: "pkcs11:x-vendor=1", err: "not supported"},
		{in: "pkcs11:library-manufacturer=a", err: "not supported"},
		{in: "pkcs11:slot-description=a", err: "not chosen by slot"},
		{in: "pkcs11:token=" + strings.Repeat("a", 32), want: URI{Label: strings.Repeat("a", 32)}},
		{in: "pkcs11:token=" + strings.Repeat("%C3%A4", 17), err: "34 bytes"},
		{in: "pkcs11:serial=" + strings.Repeat("1", 17), err: "17 bytes"},
	} {
		got, err := Parse(tt.in)
		switch {
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %+v, %v; want %+v", tt.in, got, err, tt.want)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: %v; want an error with %q", tt.in, err, tt.err)
		case err != nil && strings.Contains(err.Error(), "1234"):
			t.Errorf("%s: the error shows the PIN: %v", tt.in, err)
		}
	}
}

// FuzzParse holds that no input panics, and that what is accepted has only
// absolute paths.
func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=a;serial=b?pin-source=file:/x&module-path=/y")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err == nil && (u.Module != "" && u.Module[0] != '/' || u.PINFile != "" && u.PINFile[0] != '/') {
			t.Errorf("%q: %+v", s, u)
		}
	})
}
