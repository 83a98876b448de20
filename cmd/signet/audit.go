package main

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
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
	var of auditFlags
	var keys, head, prev string
	cmd := &cobra.Command{
		Use:   name,
		Short: "Find any line of the audit that was changed, removed or moved",
		Long: `Find any line of the audit that was changed, removed or moved: follow the chain of
hashes through the audit file and those that were set aside before it, and
check the HSM's signatures in them. An administrator gets the lines from the running
agent; with --file or --config, or where the agent does not give them, the files are
read. The public keys are those of --keys, else
the running agent's, else the ones beside the audit file, which who can change
the one can change as well. A line that has to be there is that of --head, else
the last one of the running agent, else that of the file beside. A beginning that
is missing is an error, unless the agent has removed it because of audit.keep, or
--after says what it ended with; then an end that nobody knows is none.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, silent := p.askAudit(cmd.Context())
			told := func() error {
				if silent != nil {
					return silent
				}
				lines, err := p.agent().AuditLines(cmd.Context(), client.AuditRange{After: prev})
				if err != nil {
					return err
				}
				defer lines.Close()
				a, err := auditEvidence(agent, nil, "", keys, head)
				if err != nil {
					return err
				}
				return p.verifyLines(a, agent.File, prev, lines)
			}
			return of.read(told, func(path string) error {
				a, err := auditEvidence(agent, silent, path, keys, head)
				if err != nil {
					return err
				}
				return p.verifyFiles(a, path, prev)
			})
		},
	}
	of.add(cmd)
	cmd.Flags().StringVar(&keys, "keys", "", "`file` with the public keys of the signatures, in PEM")
	cmd.Flags().StringVar(&head, "head", "", "the `hash` of a line that has to be there, such as verify has printed")
	cmd.Flags().StringVar(&prev, "after", "", "the `hash` that the file before the first one ended with")
	return cmd
}

// verifyFiles reads the files, oldest first, and says how far they can be
// trusted.
func (p *program) verifyFiles(a evidence, path, prev string) error {
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
	return p.verified(&v, a, path, prev, fmt.Sprintf("in %d files", len(files)))
}

// verifyLines is verifyFiles with the lines that the agent gives.
func (p *program) verifyLines(a evidence, path, prev string, lines io.Reader) error {
	v := access.Verifier{Head: prev, Keys: a.keys, End: a.end, Growing: true}
	if err := v.Read(lines); err != nil {
		return fmt.Errorf("audit file %s, as the agent reads it: %w%s", path, err, a.keysNote())
	}
	return p.verified(&v, a, path, prev, "as the agent reads them")
}

// verified says how far what was read can be trusted.
func (p *program) verified(v *access.Verifier, a evidence, path, prev, where string) error {
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
	_, err := fmt.Fprintf(p.stdout, "%s: ok: %d lines %s, ends with %s (its end by the word of %s); %s%s\n",
		path, v.Lines, where, v.Head, a.endFrom, signed, a.agentNote())
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
	var of auditFlags
	var lines int
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the last lines of the audit file",
		Long: `Print the last lines of the audit file. An administrator gets them from the running
agent; with --file or --config, or where the agent does not give them, the file is
read.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return usage(cmd, "--lines is negative")
			}
			if lines == 0 {
				return nil
			}
			told := func() error {
				r, err := p.agent().AuditLines(cmd.Context(), client.AuditRange{Last: lines})
				if err != nil {
					return err
				}
				defer r.Close()
				if _, err = io.Copy(p.stdout, r); err != nil {
					return fmt.Errorf("audit, as the agent reads it: %w", err)
				}
				return nil
			}
			return of.read(told, func(path string) error { return p.tailFile(path, lines) })
		},
	}
	of.add(cmd)
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how `many`")
	return cmd
}

func (p *program) tailFile(path string, lines int) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return missingAudit(path)
	}
	if err != nil {
		return fmt.Errorf("audit file: %w", err)
	}
	defer f.Close()
	r, err := access.TailOf(f, lines)
	if err != nil {
		return fmt.Errorf("audit file %s: %w", path, err)
	}
	_, err = io.Copy(p.stdout, r)
	return err
}

// auditFlags are the flags that name an audit.
type auditFlags struct {
	cmd          *cobra.Command
	file, config string
}

func (a *auditFlags) add(cmd *cobra.Command) {
	a.cmd = cmd
	cmd.Flags().StringVar(&a.file, "file", "", "the audit `file` (default that of the running agent, or of the configuration)")
	configFlag(cmd, &a.config)
}

// read has the running agent asked, unless the flags name an audit. What it does not
// give is read from the file of its configuration; who may not do that either is
// told why the agent does not.
func (a *auditFlags) read(told func() error, fromFile func(path string) error) error {
	var silent error
	if a.file == "" && !a.cmd.Flags().Changed("config") {
		err := told()
		if _, ok := errors.AsType[*client.Error](err); !ok {
			return err
		}
		silent = err
	}
	path := a.file
	if path == "" {
		c, err := loadConfig(a.config)
		if err != nil {
			return unreadable(err, silent)
		}
		path = c.AuditPath()
	}
	return unreadable(fromFile(path), silent)
}

// unreadable is err, or instead, if err is that a file cannot be read, why the agent
// did not give what is in it.
func unreadable(err, silent error) error {
	if silent != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return silent
	}
	return err
}
