package main

import (
	"context"
	"encoding/json"
	"iter"
	"math/big"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// caUpdate is a method that changes a CA.
type caUpdate func(*ciphertrust.Client, context.Context, string, ciphertrust.CASettings) (*ciphertrust.CA, error)

var certificates = view[ciphertrust.Certificate]{
	header: []string{"ID", "NAME", "STATE", "SUBJECT", "SERIAL", "NOT AFTER", "REVOKED AT", "REASON"},
	row: func(c *ciphertrust.Certificate) []string {
		return []string{c.ID, c.Name, c.State, c.Subject, serialText(c.SerialNumber), instant(c.NotAfter), instant(c.RevokedAt), c.RevokedReason}
	},
	text: func(c *ciphertrust.Certificate) json.RawMessage { return c.JSON },
}

// serialText is the appliance's decimal serial number as the agent's own status
// shows it: whole bytes in hex.
func serialText(decimal string) string {
	n, ok := new(big.Int).SetString(decimal, 10)
	if !ok {
		return decimal
	}
	s := n.Text(16)
	if len(s)%2 != 0 {
		s = "0" + s
	}
	return s
}

// newTrustCerts is `certs`. All of its commands are about one CA.
func newTrustCerts(t *trust) *cobra.Command {
	var ca string
	needsCA := func(do deed) deed {
		return func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if ca == "" {
				return usage(cmd, "--ca is missing; `signet ciphertrust ca list` shows the local CAs")
			}
			return do(cmd, c, args)
		}
	}
	var pem bool
	get := t.command("get CERTIFICATE", "Show a certificate", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		got, err := c.Certificate(cmd.Context(), ca, args[0])
		if err == nil && pem {
			return t.pem(got.Cert, "the server sent no certificate")
		}
		return showOne(t, certificates, got, err)
	}))
	get.Flags().BoolVar(&pem, "cert", false, "print it in PEM")

	var filter func() ciphertrust.Filter
	all := t.command("list", "List the certificates of a CA", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, _ []string) error {
		var records iter.Seq2[*ciphertrust.Certificate, error] = c.Certificates(cmd.Context(), ca, filter())
		return showAll(t, certificates, records)
	}))
	filter = filters(all, ciphertrust.CertificateFilters)

	var reason string
	revoke := t.command("revoke CERTIFICATE", "Revoke a certificate", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
		if !slices.Contains(ciphertrust.Reasons, reason) {
			return usage(cmd, "--reason: want one of %s", strings.Join(ciphertrust.Reasons, ", "))
		}
		if err := t.confirm(cmd, "revoke certificate %s for %s", args[0], reason); err != nil {
			return err
		}
		got, err := c.RevokeCertificate(cmd.Context(), ca, args[0], reason)
		return showOne(t, certificates, got, err)
	}))
	revoke.Flags().StringVar(&reason, "reason", "", "`reason` as RFC 5280 has it; only certificateHold can be taken back")

	cmd := family("certs", "Certificates that a local CA has issued", all, get, newCertIssue(t, needsCA, &ca), revoke,
		t.command("resume CERTIFICATE", "Take back a certificateHold", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			got, err := c.ResumeCertificate(cmd.Context(), ca, args[0])
			return showOne(t, certificates, got, err)
		})),
		t.command("delete CERTIFICATE", "Delete the record of a certificate, which does not revoke it", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, args []string) error {
			if err := t.confirm(cmd, "delete the record of certificate %s, without revoking it", args[0]); err != nil {
				return err
			}
			return done(t, args[0], "deleted", c.DeleteCertificate(cmd.Context(), ca, args[0]))
		})))
	cmd.PersistentFlags().StringVar(&ca, "ca", "", "`ID` or name of the local CA")
	return cmd
}

func newCertIssue(t *trust, needsCA func(deed) deed, ca *string) *cobra.Command {
	var v validityFlags
	var file, purpose, name string
	var pem bool
	cmd := t.command("issue", "Have a CA sign a CSR", needsCA(func(cmd *cobra.Command, c *ciphertrust.Client, _ []string) error {
		if !slices.Contains([]string{"server", "client", "ca"}, purpose) {
			return usage(cmd, "--purpose: want server, client or ca")
		}
		life, err := v.validity(cmd)
		if err != nil {
			return err
		}
		csr, err := t.input(cmd, "csr-file", file)
		if err != nil {
			return err
		}
		got, err := c.IssueCertificate(cmd.Context(), *ca, ciphertrust.IssueRequest{CSR: csr, Purpose: purpose, Name: name, Validity: life})
		if err == nil && pem {
			return t.pem(got.Cert, "the server sent no certificate")
		}
		return showOne(t, certificates, got, err)
	}))
	v.add(cmd)
	cmd.Flags().StringVar(&file, "csr-file", "", "PEM `file` with the request, - for the standard input")
	cmd.Flags().StringVar(&purpose, "purpose", "", "server, client or ca")
	cmd.Flags().StringVar(&name, "name", "", "`name` of the certificate at the server")
	cmd.Flags().BoolVar(&pem, "cert", false, "print the certificate in PEM")
	return cmd
}
