package main

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/internal/access"
)

// newAudit is `signet audit`.
func newAudit(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify and read the audit file",
		Args:  cobra.ArbitraryArgs,
		RunE:  unknownCommand,
	}
	cmd.AddCommand(newAuditVerify(p, "verify"), newAuditTail(p))
	return cmd
}

// newAuditVerify is `signet audit verify`, and by another name `signet key
// verify-audit`.
func newAuditVerify(p *program, name string) *cobra.Command {
	var file, config, keys, head, prev string
	cmd := &cobra.Command{
		Use:   name,
		Short: "Find any line of the audit that was changed, removed or moved",
		Long: `Find any line of the audit that was changed, removed or moved: follow the chain of
hashes through the audit file and those that were set aside before it, and
check the HSM's signatures in them. The public keys are those of --keys, else
the running agent's, else the ones beside the audit file, which who can change
the one can change as well. A line that has to be there is that of --head, else
the last one of the running agent, else that of the file beside. A beginning that
is missing is an error, unless the agent has removed it because of audit.keep, or
--after says what it ended with; then an end that nobody knows is none.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := auditPath(file, config)
			if err != nil {
				return err
			}
			a, err := p.auditEvidence(cmd.Context(), path, keys, head)
			if err != nil {
				return err
			}
			return p.verifyAudit(a, path, prev)
		},
	}
	auditFlags(cmd, &file, &config)
	cmd.Flags().StringVar(&keys, "keys", "", "`file` with the public keys of the signatures, in PEM")
	cmd.Flags().StringVar(&head, "head", "", "the `hash` of a line that has to be there, such as verify has printed")
	cmd.Flags().StringVar(&prev, "after", "", "the `hash` that the file before the first one ended with")
	return cmd
}

// verifyAudit reads the files, oldest first, and says how far they can be
// trusted.
func (p *program) verifyAudit(a evidence, path, prev string) error {
	files, err := access.AuditFiles(path)
	if err != nil {
		return fmt.Errorf("audit file: %w", err)
	}
	if len(files) == 0 {
		return missingAudit(path)
	}
	if prev != "" {
		files = access.AuditFilesAfter(files, prev)
	}
	v := access.Verifier{Head: prev, Keys: a.keys, End: a.end, Growing: a.running}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("audit file: %w", err)
		}
		err = v.Read(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("audit file %s: %w%s", name, err, a.keysNote())
		}
	}
	if err := v.Done(); err != nil {
		return &auditError{path, err}
	}
	switch {
	case v.End == "" && prev == "":
		return &endError{path}
	case v.Stamps > 0 && v.Keys == nil:
		return &keysError{path}
	}
	signed := "none of them signed"
	if v.Keys != nil {
		signed = fmt.Sprintf("%d of them signed (by the keys of %s), the last %d not yet", v.Signed, a.keysFrom, v.Unsigned)
	}
	if v.End == "" {
		a.endFrom = "nothing"
	}
	_, err = fmt.Fprintf(p.stdout, "%s: ok: %d lines in %d files, ends with %s (its end by the word of %s); %s%s\n",
		path, v.Lines, len(files), v.Head, a.endFrom, signed, a.agentNote())
	return err
}

// missingAudit says that there is no audit file.
func missingAudit(path string) error {
	return &missingError{what: "audit file " + path, hint: "name it with --file, or the agent's configuration with --config"}
}

// readKeys reads public keys in PEM, each named by its header "Key".
func readKeys(file string) (map[string]crypto.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("public keys: %w", err)
	}
	known := map[string]crypto.PublicKey{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public keys: %s: %w", file, err)
		}
		known[cmp.Or(block.Headers["Key"], "audit#1")] = pub // `signet key show audit` prints no header
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("public keys: %s holds none in PEM", file)
	}
	return known, nil
}

// newAuditTail is `signet audit tail`.
func newAuditTail(p *program) *cobra.Command {
	var file, config string
	var lines int
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the last lines of the audit file",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return usage(cmd, "--lines is negative")
			}
			f, err := openAudit(file, config)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := seekLines(f, lines); err != nil {
				return fmt.Errorf("audit file %s: %w", f.Name(), err)
			}
			_, err = io.Copy(p.stdout, f)
			return err
		},
	}
	auditFlags(cmd, &file, &config)
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how `many`")
	return cmd
}

// auditFlags adds the flags that name the audit file.
func auditFlags(cmd *cobra.Command, file, config *string) {
	cmd.Flags().StringVar(file, "file", "", "the audit `file` (default that of the configuration)")
	configFlag(cmd, config)
}

// auditPath is the audit file that the flags name.
func auditPath(file, config string) (string, error) {
	if file != "" {
		return file, nil
	}
	c, err := loadConfig(config)
	if err != nil {
		return "", err
	}
	return c.AuditPath(), nil
}

// openAudit opens the audit file.
func openAudit(file, config string) (*os.File, error) {
	file, err := auditPath(file, config)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, missingAudit(file)
	}
	if err != nil {
		return nil, fmt.Errorf("audit file: %w", err)
	}
	return f, nil
}

// seekLines moves to where the last n lines of f begin.
func seekLines(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	block := make([]byte, 32<<10)
	newlines := -1 // the last one ends the last line
	for end > 0 {
		size := min(end, int64(len(block)))
		end -= size
		if _, err := f.ReadAt(block[:size], end); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if block[i] == '\n' {
				if newlines++; newlines == n {
					_, err := f.Seek(end+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
