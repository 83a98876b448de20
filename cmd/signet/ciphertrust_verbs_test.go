package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/signet-agent/signet/upstream/ciphertrust/ciphertrusttest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// trustVerbs is every command of `signet ciphertrust`, in an order in which they
// make sense, and a part of what each prints.
var trustVerbs = []struct{ command, prints string }{
	{"users create maya --password-file $DIR/pw --email m@example.com", "maya"},
	{"users list --username may?", "m@example.com"},
	{`users update maya --name Maya --user-metadata {"team":"ops"} --app-metadata {"role":"r"} --certificate-subject-dn CN=maya` +
		" --auth-methods password,user_certificate --client-types unregistered --expires-at 2040-01-01T00:00:00Z --prevent-ui-login", "Maya"},
	{"users unlock maya", "Maya"},
	{"users password maya --password-file $DIR/pw --new-password-file $DIR/pw2", "password changed"},
	{"groups create Ops --description operators", "operators"},
	{"groups add Ops maya", "1"},
	{"groups list --name O*", "operators"},
	{"users list --groups Ops", "maya"},
	{"users get maya", "Ops"},
	{"groups update Ops --rename Operators", "Operators"},
	{"groups remove Operators maya", "removed"},
	{"groups delete Operators", "Operators: deleted"},
	{"users delete maya", "maya: deleted"},

	{"secrets create other --type blob --value-file $DIR/pw", "other"},
	{"secrets list --name oth*", "blob"},
	{"secrets rotate other --value-file $DIR/pw2", "other"},
	{"secrets get other", "Active"},
	{"secrets versions other", "1"},
	{"secrets delete other", "other: deleted"},

	{"properties list --name MAX*", "MAXIMUM_REFRESH_TOKEN_LIFETIME"},
	{"properties set MAXIMUM_REFRESH_TOKEN_LIFETIME 20d", "20d"},
	{"properties get MAXIMUM_REFRESH_TOKEN_LIFETIME", "20d"},
	{"properties reset MAXIMUM_REFRESH_TOKEN_LIFETIME", "reset"},

	{"ca create root.example --name root --algorithm ECDSA --size 384 --organization Acme --country US", "pending"},
	{"ca list --state pending", "/C=US/O=Acme/CN=root.example"},
	{"ca get root --csr", "BEGIN CERTIFICATE REQUEST"},
	{"ca self-sign root --not-after 2040-01-01T00:00:00Z", "2040-01-01"},
	{"ca update root --clients=false", "Disabled"},
	{"external-ca upload --cert-file $DIR/outside.pem --name outside", "/CN=outside"},
	{"external-ca list --subject *outside", "outside"},
	{"external-ca get outside", "Enabled"},
	{"external-ca update outside --users=false", "Disabled"},
	{"ca create sub.example --name sub", "pending"},
	{"ca install sub --cert-file $DIR/sub.pem --parent $OUTSIDE", "active"},
	{"ca get sub --chain", "BEGIN CERTIFICATE"},
	{"ca csr helper.example --dns helper.example --encryption AES256 --password-file $DIR/pw", "PRIVATE KEY"},
	{"certs --ca root issue --csr-file $DIR/web.csr --purpose server --not-after 2039-01-01T00:00:00Z --name web", "2039-01-01"},
	{"certs --ca root issue --csr-file $DIR/web.csr --purpose client --days 30", "active"},
	{"certs --ca root list --subject *web.example", "web"},
	{"certs --ca root get web --cert", "BEGIN CERTIFICATE"},
	{"certs --ca root revoke web --reason certificateHold", "certificateHold"},
	{"certs --ca root resume web", "active"},
	{"certs --ca root revoke web --reason removeFromCRL", "removeFromCRL"},
	{"certs --ca root delete web", "web: deleted"},
	{"ca delete sub", "sub: deleted"},
	{"external-ca delete outside", "outside: deleted"},

	{"tokens list --labels signet", "signet-"},
	{"tokens get $TOKEN", "signet"},
	{"tokens revoke $TOKEN", "revoked"},
}

// here runs a command of `signet ciphertrust` in this process.
func (h *trustHost) here(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = signet(append([]string{"ciphertrust", "--socket", h.path("s")}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// Every command, with what it destroys only after a yes.
func TestCipherTrustVerbs(t *testing.T) {
	h := newTrustHost(t, "")
	h.until("the secret is read", func() bool { _, out, _ := h.try("get", "apikey", "--field", "value"); return out == "123456" })
	h.write("pw", "Maya-passw0rd1\n")
	h.write("pw2", "Maya-passw0rd2\n")
	h.write("web.csr", testCSR(t, "web.example"))
	outside, err := upstreamtest.NewCA(upstreamtest.CAConfig{Subject: pkix.Name{CommonName: "outside"}})
	if err != nil {
		t.Fatal(err)
	}
	h.write("outside.pem", string(outside.PEM()))
	names := map[string]string{"DIR": h.dir, "TOKEN": h.server.Tokens()[0].ID}

	// A rotation is noticed by whoever the value of before is refused to.
	if status, _, errs := h.here("secrets", "rotate", "mypass", "--value-file", h.write("v", "654321\n")); status != exitDone {
		t.Error(errs)
	}
	h.do("refused", "apikey", "--version", "0")
	if out := h.do("get", "apikey", "--field", "value"); out != "654321" {
		t.Errorf("value %q after the rotation", out)
	}

	done := map[string]bool{}
	for _, tt := range trustVerbs {
		args := strings.Fields(os.Expand(tt.command, func(name string) string { return names[name] }))
		verb := verbOf(t, args)
		done[verb] = true
		if destroys(verb) {
			if status, _, errs := h.here(args...); status != exitUsage || !strings.Contains(errs, "--yes") {
				t.Errorf("%s: exit status %d without a yes: %s", tt.command, status, errs)
			}
			args = append(args, "--yes")
		}
		status, out, errs := h.here(args...)
		if status != exitDone || !strings.Contains(out, tt.prints) || strings.Contains(out, "passw0rd") {
			t.Errorf("%s: exit status %d, %q %s; want %q", tt.command, status, out, errs, tt.prints)
		}
		switch {
		case strings.HasSuffix(verb, " list") || strings.HasSuffix(verb, " get") && !strings.Contains(out, "-----BEGIN"):
			if status, out, errs = h.here(append(args, "--json")...); status != exitDone || !json.Valid([]byte(out)) {
				t.Errorf("%s --json: exit status %d, %s%s", tt.command, status, out, errs)
			}
		case verb == "external-ca upload":
			names["OUTSIDE"] = h.ct("external-ca", "get", "outside").ID
		case tt.command == "ca create sub.example --name sub":
			h.write("sub.pem", certified(t, outside, h.ct("ca", "get", "sub").CSR))
		}
	}
	for _, verb := range leaves(newCipherTrust(&program{})) {
		if !done[verb] {
			t.Errorf("%s: in no test", verb)
		}
	}
	h.refusals()
	h.filters()
	h.everybody()
}

// everybody holds that a long list comes through the agent in full.
func (h *trustHost) everybody() {
	h.Helper()
	const n = 1_000 // four pages
	list := make([]ciphertrusttest.User, n)
	for i := range list {
		list[i].Username = fmt.Sprintf("user-%05d", i)
	}
	if err := h.server.AddUsers(list...); err != nil {
		h.Fatal(err)
	}
	status, out, errs := h.here("users", "list", "--username", "user-*")
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		seen[strings.Fields(line)[1]] = true
	}
	if delete(seen, "USERNAME"); status != exitDone || len(seen) != n || strings.Count(out, "\n") != n+1 {
		h.Errorf("exit status %d, %d users in %d lines, %s", status, len(seen), strings.Count(out, "\n"), errs)
	}
}

// verbOf is the command that a command line means.
func verbOf(t *testing.T, args []string) string {
	t.Helper()
	cmd, _, err := newCipherTrust(&program{}).Find(args)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(cmd.CommandPath(), "ciphertrust ")
}

func destroys(verb string) bool {
	_, last, _ := strings.Cut(verb, " ")
	return slices.Contains([]string{"delete", "remove", "revoke"}, last)
}

// leaves are the commands below one that do something.
func leaves(cmd *cobra.Command) (list []string) {
	if !cmd.HasSubCommands() {
		return []string{strings.TrimPrefix(cmd.CommandPath(), "ciphertrust ")}
	}
	for _, sub := range cmd.Commands() {
		list = append(list, leaves(sub)...)
	}
	return list
}

// certified is a certificate in PEM for the request of a CA.
func certified(t *testing.T, by *upstreamtest.CA, request string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(request))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := by.Issue(&x509.Certificate{SerialNumber: big.NewInt(7), Subject: csr.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, csr.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// refusals are what the server does not do, each with its own exit status and the
// server's own words.
func (h *trustHost) refusals() {
	h.Helper()
	for command, want := range map[string]struct {
		status int
		says   string
	}{
		"users get nobody":                                   {exitNotFound, "Resource not found"},
		"groups delete admin --yes":                          {exitDenied, "NCERRForbidden"},
		"groups update admin --rename mine":                  {exitDenied, "NCERRForbidden"},
		"users delete admin --yes":                           {exitDenied, "NCERRForbidden"},
		"ca self-sign root --days 3":                         {exitFailed, "NCERRConflict"},
		"secrets create mypass --value-file /etc/hostname":   {exitFailed, "NCERRKeyAlreadyExists"},
		"properties set MAXIMUM_REFRESH_TOKEN_LIFETIME soon": {exitFailed, "NCERRInvalidParamValue"},
		"certs --ca root revoke web --reason none":           {exitUsage, "want one of unspecified, keyCompromise"},
		"certs list": {exitUsage, "--ca is missing"},
	} {
		if status, out, errs := h.here(strings.Fields(command)...); status != want.status || !strings.Contains(errs, want.says) || out != "" {
			h.Errorf("%s: exit status %d, %s; want %d, %s", command, status, errs, want.status, want.says)
		} else if want.status != exitUsage && !strings.Contains(errs, "(request ") {
			h.Errorf("%s: %s does not say which request it was", command, errs)
		}
	}
}

// filters holds that the server knows each filter of each list.
func (h *trustHost) filters() {
	h.Helper()
	values := map[string]string{"account-expired": "true", "expired": "true", "revoked": "true", "refreshed-before": "-1Y", "version": "0", "state": "active"}
	for _, family := range newCipherTrust(&program{}).Commands() {
		list, _, err := family.Find([]string{"list"})
		if err != nil {
			h.Fatal(err)
		}
		list.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			value, ok := values[f.Name]
			if !ok {
				value = "x"
			}
			args := []string{family.Name(), "list", "--" + f.Name, value}
			if family.Name() == "certs" {
				args = append(args, "--ca", "root")
			}
			if status, _, errs := h.here(args...); status != exitDone {
				h.Errorf("%q: exit status %d, %s", args, status, errs)
			}
		})
	}
}

// Serial numbers look as in the agent's own status, whatever the server sends.
func TestSerialNumbersOfTheServerAreShownAsOurs(t *testing.T) {
	for text, want := range map[string]string{"7": "07", "2748": "0abc", "340282366920938463463374607431768211455": strings.Repeat("ff", 16), "": "", "no number": "no number"} {
		if got := serialText(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
