package main

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// An operator enrols an identity: with a wrong password nothing is used up, with
// the right one the certificate works, for a year as nobody says how long, and
// the file is gone. A second enrolment is refused.
func TestEnrolByTheCommandLine(t *testing.T) {
	r := newIdentityRig(t)
	once, err := os.ReadFile(r.vars.E.Manager.CredentialsFile)
	if err != nil {
		t.Fatal(err)
	}
	r.vars.Duration, r.vars.E.Manager.CredentialsFile = "", ""
	r.start()
	r.until("waiting for credentials", 30*time.Second, func() bool {
		i, ok := r.host()
		return ok && i.State == "waiting" && i.NextAction == "enroll" && strings.Contains(i.Hint, "signet enroll host")
	})
	enroll := func(file, stdin string) (string, error) {
		cmd := r.command("signet", "enroll", "host", "--credentials-file", file)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if said, err := enroll("-", `{"username": "nobody", "password": "wrong"}`); err == nil || strings.Count(said, "\n") != 1 || !strings.Contains(said, "user name and password") {
		t.Errorf("with wrong credentials: %v\n%s", err, said)
	}
	r.write("once.json", string(once))
	if said, err := enroll(r.path("once.json"), ""); err != nil || said != "host: enrolled\n" {
		t.Fatalf("%v\n%s", err, said)
	}
	if _, err := os.Stat(r.path("once.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the credentials file: %v", err)
	}
	if !r.works() {
		t.Error("the certificate does not work")
	}
	leaf, err := x509.ParseCertificate(r.certificates()[0].DER)
	if err != nil || leaf.NotAfter.Sub(time.Now().AddDate(1, 0, 0)).Abs() > time.Hour {
		t.Errorf("ends at %v, want in a year", leaf.NotAfter)
	}
	r.write("once.json", string(once))
	if said, err := enroll(r.path("once.json"), ""); err == nil || !strings.Contains(said, "enrolled already") {
		t.Errorf("a second time: %v\n%s", err, said)
	}
	if n, keys := r.registrations(), r.privateKeys(); n != 1 || len(keys) != 1 {
		t.Errorf("%d registrations, keys %v", n, keys)
	}
}
