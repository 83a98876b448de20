package main

import (
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
	cmd.AddCommand(newAuditVerify(p), newAuditTail(p))
	return cmd
}

// newAuditVerify is `signet audit verify`.
func newAuditVerify(p *program) *cobra.Command {
	var file, config, prev string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Find any line of the audit file that was changed, removed or moved",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			f, err := openAudit(file, config)
			if err != nil {
				return err
			}
			defer f.Close()
			head, lines, err := access.Verify(f, prev)
			if err != nil {
				return fmt.Errorf("audit file %s: %w", f.Name(), err)
			}
			_, err = fmt.Fprintf(p.stdout, "%s: ok: %d lines, ends with %s\n", f.Name(), lines, head)
			return err
		},
	}
	auditFlags(cmd, &file, &config)
	cmd.Flags().StringVar(&prev, "after", "", "the `hash` that the file before this one ended with")
	return cmd
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

// openAudit opens the audit file.
func openAudit(file, config string) (*os.File, error) {
	if file == "" {
		c, err := loadConfig(config)
		if err != nil {
			return nil, err
		}
		file = c.AuditPath()
	}
	f, err := os.Open(file)
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
