package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
)

// maxMessage is how much `signet key sign` reads. A message for Ed25519 goes to
// the agent whole.
const maxMessage = 64 << 20

// newKey is `signet key`.
func newKey(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, show and use keys in the HSM",
		Args:  cobra.ArbitraryArgs,
		RunE:  unknownCommand,

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(newKeyList(p), newKeyShow(p), newKeySign(p), newKeyRotateSealing(p), newAuditVerify(p, "verify-audit"))
	return cmd
}

// newKeyList is `signet key list`.
func newKeyList(p *program) *cobra.Command {
	var asJSON, objects bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys that the caller may use",
		Long: `List the keys that the caller may use. Administrators are also told what is on the
tokens and is not the agent's; it is left alone. In JSON there are the keys alone, or
with --objects the rest alone.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if objects {
				return p.listObjects(cmd.Context(), asJSON)
			}
			keys, err := p.agent().Keys(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.stdout, keys)
			}
			rows := [][]string{{"NAME", "GENERATION", "ALGORITHM"}}
			for _, k := range keys {
				rows = append(rows, []string{k.Name, strconv.Itoa(k.Generation), k.Algorithm})
			}
			var out bytes.Buffer
			table(&out, rows)
			if _, err = p.stdout.Write(out.Bytes()); err != nil {
				return err
			}
			err = p.listObjects(cmd.Context(), false)
			if client.CodeOf(err) == client.Denied {
				return nil // it is for administrators
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&objects, "objects", false, "list only what is on the tokens and is not the agent's")
	return cmd
}

// listObjects prints what is on the tokens and is not the agent's. A token that
// cannot be looked at is told of beside it.
func (p *program) listObjects(ctx context.Context, asJSON bool) error {
	list, err := p.agent().ListObjects(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(p.stdout, list)
	}
	var out bytes.Buffer
	if len(list.Objects) > 0 {
		out.WriteString("\nnot the agent's, and left alone:\n")
		rows := [][]string{{"TOKEN", "ID", "LABEL", "WHAT"}}
		for _, o := range list.Objects {
			rows = append(rows, []string{o.Token, o.ID, o.Label, o.What})
		}
		table(&out, rows)
	}
	_, err = p.stdout.Write(out.Bytes())
	for _, s := range list.Skipped {
		line := fmt.Sprintf("signet: warning: token %q was not looked at: %s", s.Token, s.Error)
		if s.Hint != "" {
			line += "; " + s.Hint
		}
		_, _ = fmt.Fprintln(p.stderr, printable(line))
	}
	return err
}

// newKeyShow is `signet key show`.
func newKeyShow(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a key: its public half, and its attributes as the module states them",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := p.agent().Key(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.stdout, k)
			}
			var out bytes.Buffer
			rows := [][]string{
				{"name", k.Name}, {"generation", strconv.Itoa(k.Generation)}, {"algorithm", k.Algorithm},
			}
			for _, name := range slices.Sorted(maps.Keys(k.Attributes)) {
				if name == "audit" {
					rows = append(rows, auditRows(k.Attributes[name])...)
					continue
				}
				rows = append(rows, []string{name, fmt.Sprint(k.Attributes[name])})
			}
			table(&out, rows)
			out.WriteString(k.PublicKey)
			_, err = p.stdout.Write(out.Bytes())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// auditRows are the rows of what was found when the key was tried to be got out.
func auditRows(v any) [][]string {
	audit, _ := v.(map[string]any)
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(audit)) {
		if list, ok := audit[name].([]any); ok && len(list) == 0 {
			continue
		}
		rows = append(rows, []string{"audit " + name, fmt.Sprint(audit[name])})
	}
	return rows
}

// newKeyRotateSealing is `signet key rotate-sealing`.
func newKeyRotateSealing(p *program) *cobra.Command {
	var discard bool
	cmd := &cobra.Command{
		Use:   "rotate-sealing",
		Short: "Replace the key in the HSM that the agent's own state is sealed with",
		Long: `Replace the key in the HSM that the agent's own state is sealed with. Only the data
key is sealed anew; the old sealing key is destroyed afterwards, so that copies of
the state from before can no longer be read. An agent that runs does not need the
old one for that: where it was lost meanwhile, this replaces it.

An agent that was started without its sealing key cannot read its state. Bring the
key back, with the token or a copy of it. Only if that cannot be, --discard-sealed
has the agent begin anew, without what the lost key has sealed: the private keys
with store: file, logins, the secrets of before, which are fetched anew, and what
it remembers of its audit.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rotate := p.agent().RotateSealingKey
			if discard {
				rotate = p.agent().DiscardSealed
			}
			if err := rotate(cmd.Context()); err != nil {
				return err
			}
			_, err := fmt.Fprintln(p.stdout, "sealing key: rotated")
			return err
		},
	}
	cmd.Flags().BoolVar(&discard, "discard-sealed", false, "if the old sealing key is lost, discard what it has sealed")
	return cmd
}

// newKeySign is `signet key sign`.
func newKeySign(p *program) *cobra.Command {
	var s signing
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sign NAME [FILE]",
		Short: "Sign a file or the standard input with a key in the HSM",
		Long: `Sign a file, or the standard input. The hash is taken here, and only the digest goes
to the agent; Ed25519 has no hash and gets the message itself. The signature is
printed in base64, or written to --out as it is: for ECDSA ASN.1 DER.`,
		Example: `  signet key sign host release.tar --out release.tar.sig
  openssl dgst -sha256 -binary release.tar | signet key sign host --digest`,
		Args: func(cmd *cobra.Command, args []string) error {
			return exactly([]string{"NAME", "FILE"}[:min(max(len(args), 1), 2)]...)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := p.input(args[1:])
			if err != nil {
				return err
			}
			agent := p.agent()
			request, err := s.request(cmd, agent, args[0], data)
			if err != nil {
				return err
			}
			sig, err := agent.Sign(cmd.Context(), args[0], request)
			switch {
			case err != nil:
				return err
			case out != "":
				return os.WriteFile(out, sig.Signature, 0o644) //nolint:gosec // a signature is for everyone
			case asJSON:
				return printJSON(p.stdout, sig)
			}
			_, err = fmt.Fprintln(p.stdout, base64.StdEncoding.EncodeToString(sig.Signature))
			return err
		},
	}
	cmd.Flags().StringVar(&s.hash, "hash", "SHA-256", "`SHA-256`, SHA-384 or SHA-512")
	cmd.Flags().StringVar(&s.padding, "padding", "pkcs1v15", "for RSA: `pkcs1v15` or pss")
	cmd.Flags().BoolVar(&s.digest, "digest", false, "the input is the digest already, as bytes")
	cmd.Flags().StringVar(&out, "out", "", "write the signature to `file`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the signature with the key's generation as JSON")
	return cmd
}

// A signing says how to sign.
type signing struct {
	hash, padding string
	digest        bool
}

// request makes the request for the agent. What it says depends on the key.
func (s signing) request(cmd *cobra.Command, agent *client.Client, key string, data []byte) (client.SignRequest, error) {
	newHash, known := map[string]func() hash.Hash{"SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New}[s.hash]
	switch {
	case !known:
		return client.SignRequest{}, usage(cmd, "no hash %q: SHA-256, SHA-384 or SHA-512", s.hash)
	case s.padding != "pkcs1v15" && s.padding != "pss":
		return client.SignRequest{}, usage(cmd, "no padding %q: pkcs1v15 or pss", s.padding)
	}
	pub, err := publicKey(cmd.Context(), agent, key)
	if err != nil {
		return client.SignRequest{}, err
	}
	if _, ok := pub.(ed25519.PublicKey); ok {
		if s.digest {
			return client.SignRequest{}, usage(cmd, "key %q is Ed25519, which signs messages and no digests", key)
		}
		return client.SignRequest{Message: data}, nil
	}
	h := newHash()
	if !s.digest {
		h.Write(data)
		data = h.Sum(nil)
	}
	if len(data) != h.Size() {
		return client.SignRequest{}, usage(cmd, "%d bytes are not a digest of %s, which has %d", len(data), s.hash, h.Size())
	}
	r := client.SignRequest{Hash: s.hash, Digest: data}
	if _, ok := pub.(*rsa.PublicKey); ok {
		r.Padding = s.padding
	}
	return r, nil
}

// publicKey is the public half of a key.
func publicKey(ctx context.Context, agent *client.Client, name string) (crypto.PublicKey, error) {
	k, err := agent.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	if k.PublicKey == "" {
		return nil, &client.Error{What: fmt.Sprintf("key %q", name), Code: client.Unavailable, Detail: "the token has no public half of it, so it cannot be used",
			Hint: fmt.Sprintf("`signet key show %[1]s` tells what is wrong; restore what was deleted, or make a new key: `signet rotate %[1]s`", name)}
	}
	return k.Public()
}

// input reads the file that args names, or the standard input.
func (p *program) input(args []string) ([]byte, error) {
	in, name := p.stdin, "standard input"
	if len(args) > 0 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, args[0]
	}
	data, err := io.ReadAll(io.LimitReader(in, maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > maxMessage {
		return nil, fmt.Errorf("%s: larger than %d MiB", name, maxMessage>>20)
	}
	return data, nil
}
