package main

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

var authorities = view[ciphertrust.CA]{
	header: []string{"ID", "NAME", "STATE", "SUBJECT", "ISSUER", "NOT AFTER", "CLIENTS", "USERS"},
	row: func(ca *ciphertrust.CA) []string {
		return []string{ca.ID, ca.Name, ca.State, ca.Subject, ca.Issuer, instant(ca.NotAfter),
			ca.Purpose.ClientAuthentication, ca.Purpose.UserAuthentication}
	},
	text: func(ca *ciphertrust.CA) json.RawMessage { return ca.JSON },
}

func newTrustCAs(t *trust) *cobra.Command {
	return family("ca", "Local CAs, whose keys the server has",
		listing(t, "List local CAs", authorities, ciphertrust.CAFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.CA, error] {
				return c.CAs(cmd.Context(), f)
			}),
		newCAGet(t), newCACreate(t),
		newCAUpdate(t, "local CA", (*ciphertrust.Client).UpdateCA),
		newCASelfSign(t), newCAInstall(t),
		t.command("delete CA", "Delete a local CA with its key", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "delete local CA %s and its key", args[0]); err != nil {
				return err
			}
			return done(t, args[0], "deleted", c.DeleteCA(cmd.Context(), args[0]))
		}),
		newCSR(t),
	)
}

func newCAGet(t *trust) *cobra.Command {
	var cert, csr, chain bool
	cmd := t.command("get CA", "Show a local CA", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		ca, err := c.CA(cmd.Context(), args[0], chain)
		switch {
		case err != nil:
			return err
		case csr:
			return t.pem(ca.CSR, "it has no CSR: it is not pending")
		case cert || chain:
			return t.pem(ca.Cert, "it has no certificate yet: it is pending")
		}
		return showOne(t, authorities, ca, nil)
	})
	cmd.Flags().BoolVar(&cert, "cert", false, "print its certificate in PEM")
	cmd.Flags().BoolVar(&chain, "chain", false, "print its certificate and those above it in PEM")
	cmd.Flags().BoolVar(&csr, "csr", false, "print its certificate request in PEM")
	return cmd
}

// pem prints a PEM text, or says why there is none.
func (t *trust) pem(text, none string) error {
	if text == "" {
		return fmt.Errorf("%s", none)
	}
	_, err := fmt.Fprintln(t.stdout, strings.TrimRight(text, "\n"))
	return err
}

// subjectFlags are what goes into the name of a certificate.
type subjectFlags struct {
	algorithm       string
	size            int
	dns, mails, ips []string
	name            ciphertrust.SubjectName
}

func (s *subjectFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.algorithm, "algorithm", "", "RSA or ECDSA")
	f.IntVar(&s.size, "size", 0, "`bits` of the key")
	f.StringSliceVar(&s.dns, "dns", nil, "DNS `name`")
	f.StringSliceVar(&s.mails, "email", nil, "e-mail `address`")
	f.StringSliceVar(&s.ips, "ip", nil, "IP `address`")
	f.StringVar(&s.name.C, "country", "", "country, in two `letters`")
	f.StringVar(&s.name.ST, "state", "", "state or `province`")
	f.StringVar(&s.name.L, "locality", "", "`place`")
	f.StringVar(&s.name.O, "organization", "", "`name` of the organization")
	f.StringVar(&s.name.OU, "unit", "", "`name` of the unit in it")
}

func (s *subjectFlags) names() []ciphertrust.SubjectName {
	if s.name == (ciphertrust.SubjectName{}) {
		return nil
	}
	return []ciphertrust.SubjectName{s.name}
}

func newCACreate(t *trust) *cobra.Command {
	var s subjectFlags
	var name, from string
	cmd := t.command("create COMMON-NAME", "Create a local CA, which is pending until it is signed", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		ca, err := c.CreateCA(cmd.Context(), ciphertrust.CARequest{CommonName: args[0], Name: name, CopyFromCA: from,
			Algorithm: s.algorithm, Size: s.size, DNSNames: s.dns, Emails: s.mails, IPs: s.ips, Names: s.names()})
		return showOne(t, authorities, ca, err)
	})
	s.add(cmd)
	cmd.Flags().StringVar(&name, "name", "", "`name` of the CA at the server")
	cmd.Flags().StringVar(&from, "copy-from", "", "`CA` whose key and subject it is to have")
	return cmd
}

// newCAUpdate is `update` of local and of external CAs.
func newCAUpdate(t *trust, what string, update caUpdate) *cobra.Command {
	var clients, people bool
	cmd := t.command("update CA", "Say what the certificates of a CA are good for at the server", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		s := ciphertrust.CASettings{ClientAuthentication: given(cmd, "clients", &clients), UserAuthentication: given(cmd, "users", &people)}
		if s == (ciphertrust.CASettings{}) {
			return usage(cmd, "nothing to change of the %s; give --clients or --users", what)
		}
		ca, err := update(c, cmd.Context(), args[0], s)
		return showOne(t, authorities, ca, err)
	})
	cmd.Flags().BoolVar(&clients, "clients", true, "clients may log in by its certificates")
	cmd.Flags().BoolVar(&people, "users", true, "users may log in by its certificates")
	return cmd
}

// validityFlags are how long a certificate is to be good for.
type validityFlags struct {
	days                int
	notAfter, notBefore string
}

func (v *validityFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&v.days, "days", 0, "how many `days` it is good for")
	cmd.Flags().StringVar(&v.notAfter, "not-after", "", "`time` until which it is good, such as 2030-01-31T00:00:00Z")
	cmd.Flags().StringVar(&v.notBefore, "not-before", "", "`time` from which on it is good")
}

func (v *validityFlags) validity(cmd *cobra.Command) (ciphertrust.Validity, error) {
	out := ciphertrust.Validity{Duration: v.days}
	if (v.days > 0) == (v.notAfter != "") {
		return out, usage(cmd, "give either --days or --not-after")
	}
	for flag, text := range map[string]struct {
		from string
		to   **time.Time
	}{"not-after": {v.notAfter, &out.NotAfter}, "not-before": {v.notBefore, &out.NotBefore}} {
		if text.from == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, text.from)
		if err != nil {
			return out, usage(cmd, "--%s: %q is not a time like 2030-01-31T00:00:00Z", flag, text.from)
		}
		*text.to = &at
	}
	return out, nil
}

func newCASelfSign(t *trust) *cobra.Command {
	var v validityFlags
	cmd := t.command("self-sign CA", "Make a pending CA a root", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		life, err := v.validity(cmd)
		if err != nil {
			return err
		}
		ca, err := c.SelfSign(cmd.Context(), args[0], life)
		return showOne(t, authorities, ca, err)
	})
	v.add(cmd)
	return cmd
}

func newCAInstall(t *trust) *cobra.Command {
	var file, parent string
	cmd := t.command("install CA", "Give a pending CA the certificate that another has made of its CSR", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		if parent == "" {
			return usage(cmd, "--parent is missing")
		}
		cert, err := t.input(cmd, "cert-file", file)
		if err != nil {
			return err
		}
		ca, err := c.InstallCA(cmd.Context(), args[0], cert, parent)
		return showOne(t, authorities, ca, err)
	})
	cmd.Flags().StringVar(&file, "cert-file", "", "PEM `file` with its certificate, - for the standard input")
	cmd.Flags().StringVar(&parent, "parent", "", "`ID` of the CA that has signed it, local or external")
	return cmd
}

func newCSR(t *trust) *cobra.Command {
	var s subjectFlags
	var encryption, passwordFile string
	cmd := t.command("csr COMMON-NAME", "Have the server make a key and a CSR, and print both", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		r := ciphertrust.CSRRequest{CommonName: args[0], Algorithm: s.algorithm, Size: s.size, Names: s.names(),
			DNSNames: s.dns, Emails: s.mails, IPs: s.ips, Encryption: encryption}
		if encryption != "" {
			password, err := t.hidden(cmd, "password-file", passwordFile, "password for the key")
			if err != nil {
				return err
			}
			r.Password = password
		}
		got, err := c.CSR(cmd.Context(), r)
		if err != nil {
			return err
		}
		if t.asJSON {
			return json.NewEncoder(t.stdout).Encode(map[string]string{"csr": got.CSR, "key": string(got.Key.Reveal())})
		}
		_, err = fmt.Fprintf(t.stdout, "%s\n%s\n", strings.TrimSpace(got.CSR), strings.TrimSpace(string(got.Key.Reveal())))
		return err
	})
	s.add(cmd)
	cmd.Flags().StringVar(&encryption, "encryption", "", "encrypt the key: AES256, AES192, AES128 or TDES")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "`file` with the password for that")
	return cmd
}

func newTrustExternalCAs(t *trust) *cobra.Command {
	var file, name, parent string
	upload := t.command("upload", "Have the server trust a CA", func(cmd *cobra.Command, c *ciphertrust.Client, _ []string) error {
		cert, err := t.input(cmd, "cert-file", file)
		if err != nil {
			return err
		}
		ca, err := c.UploadExternalCA(cmd.Context(), cert, name, parent)
		return showOne(t, authorities, ca, err)
	})
	upload.Flags().StringVar(&file, "cert-file", "", "PEM `file` with its certificate, - for the standard input")
	upload.Flags().StringVar(&name, "name", "", "`name` of the CA at the server")
	upload.Flags().StringVar(&parent, "parent", "", "`ID` of the CA above it")
	return family("external-ca", "External CAs, which the server only trusts",
		listing(t, "List external CAs", authorities, ciphertrust.ExternalCAFilters,
			func(cmd *cobra.Command, c *ciphertrust.Client, f ciphertrust.Filter) iter.Seq2[*ciphertrust.CA, error] {
				return c.ExternalCAs(cmd.Context(), f)
			}),
		t.command("get CA", "Show an external CA", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			ca, err := c.ExternalCA(cmd.Context(), args[0])
			return showOne(t, authorities, ca, err)
		}),
		upload,
		newCAUpdate(t, "external CA", (*ciphertrust.Client).UpdateExternalCA),
		t.command("delete CA", "End the trust in a CA", func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "delete external CA %s", args[0]); err != nil {
				return err
			}
			return done(t, args[0], "deleted", c.DeleteExternalCA(cmd.Context(), args[0]))
		}),
	)
}
