package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// A view is how records of a kind are shown.
type view[T any] struct {
	header []string
	row    func(*T) []string
	text   func(*T) json.RawMessage
}

// measured is how many rows the widths of a table's columns are taken from.
// Rows beyond are printed as they come, so that no list is ever held as a whole.
const measured = 200

// showAll prints a list, as JSON or as a table, while it is read.
func showAll[T any](t *trust, v view[T], records iter.Seq2[*T, error]) error {
	w := bufio.NewWriter(t.stdout)
	var err error
	if t.asJSON {
		err = writeArray(w, v, records)
	} else {
		err = writeTable(w, v, records)
	}
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}

func writeArray[T any](w *bufio.Writer, v view[T], records iter.Seq2[*T, error]) error {
	before := "["
	for r, err := range records {
		if err != nil {
			return err
		}
		var one bytes.Buffer
		if err := json.Compact(&one, v.text(r)); err != nil {
			return err
		}
		_, _ = w.WriteString(before + "\n  ") // Flush tells whether it went well
		_, _ = one.WriteTo(w)
		before = ","
	}
	if before == "[" {
		_, _ = w.WriteString("[")
	}
	_, err := w.WriteString("\n]\n")
	return err
}

func writeTable[T any](w *bufio.Writer, v view[T], records iter.Seq2[*T, error]) error {
	first := [][]string{v.header}
	var widths []int
	for r, err := range records {
		if err != nil {
			return err
		}
		row := v.row(r)
		switch {
		case widths != nil:
			writeRow(w, widths, row)
		case len(first) <= measured:
			first = append(first, row)
		default:
			widths = writeFirst(w, append(first, row))
		}
	}
	if widths == nil {
		writeFirst(w, first)
	}
	return nil
}

// writeFirst prints the rows that the widths of the columns are taken from, and
// returns the widths.
func writeFirst(w *bufio.Writer, rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 1)
		}
	}
	for _, row := range rows {
		writeRow(w, widths, row)
	}
	return widths
}

func writeRow(w *bufio.Writer, widths []int, row []string) {
	var b strings.Builder
	for i, cell := range row {
		cell = printable(cell)
		if cell == "" {
			cell = "-"
		}
		b.WriteString(cell)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(cell), 0)+2))
		}
	}
	b.WriteByte('\n')
	_, _ = w.WriteString(b.String()) // Flush tells whether it went well
}

// showOne prints one record.
func showOne[T any](t *trust, v view[T], r *T, err error) error {
	if err != nil {
		return err
	}
	if t.asJSON {
		return copyJSON(t.stdout, v.text(r))
	}
	return showAll(t, v, func(yield func(*T, error) bool) { yield(r, nil) })
}

// filters gives a command a flag for each filter of a list.
func filters(cmd *cobra.Command, known []string) func() ciphertrust.Filter {
	values := map[string]*string{}
	for _, name := range known {
		values[name] = cmd.Flags().String(flagName(name), "", "only those with this "+strings.ReplaceAll(name, "_", " ")+"; ? and * stand for others")
	}
	return func() ciphertrust.Filter {
		f := ciphertrust.Filter{}
		for name, v := range values {
			f[name] = *v
		}
		return f
	}
}

// flagName is a name of the API as flags are written: "sha256Fingerprint" is
// --sha256-fingerprint.
func flagName(name string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case r == '_':
			b.WriteByte('-')
		case r >= 'A' && r <= 'Z':
			b.WriteByte('-')
			b.WriteRune(r - 'A' + 'a')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// listing is `list` of a kind of record.
func listing[T any](t *trust, short string, v view[T], known []string, all func(*cobra.Command, *ciphertrust.Client, ciphertrust.Filter) iter.Seq2[*T, error]) *cobra.Command {
	var filter func() ciphertrust.Filter
	cmd := t.command("list", short, func(cmd *cobra.Command, c *ciphertrust.Client, _ []string) error {
		return showAll(t, v, all(cmd, c, filter()))
	})
	filter = filters(cmd, known)
	return cmd
}

// given is a pointer to the value of a flag that was set, and else nil.
func given[T any](cmd *cobra.Command, flag string, v *T) *T {
	if cmd.Flags().Changed(flag) {
		return v
	}
	return nil
}
