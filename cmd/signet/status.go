package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
)

// newStatus is `signet status`.
func newStatus(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every item: state, version, until when, last error; and the runway",
		Long: `Show every item that the agent keeps fresh, and the runway: how long everything
still works if every upstream stopped now, and what breaks first. Times are UTC.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.agent().Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return copyJSON(p.stdout, s.JSON)
			}
			return printStatus(p.stdout, s, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printStatus prints a status for people.
func printStatus(w io.Writer, s *client.Status, now time.Time) error {
	var out bytes.Buffer
	ready := "ready"
	if !s.Ready {
		ready = "not ready"
		if s.Reason != "" {
			ready += ": " + s.Reason
		}
	}
	line(&out, "agent", strings.TrimSpace(s.Version+" "+ready))
	for _, h := range s.HSM {
		line(&out, "hsm", hsmText(h))
	}
	line(&out, "runway", runwayText(s, now))
	for _, n := range s.Notices {
		line(&out, "notice", n)
	}
	items := slices.Clone(s.Items)
	slices.SortStableFunc(items, func(a, b client.Item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	if len(items) > 0 {
		out.WriteByte('\n')
		table(&out, itemRows(items))
	}
	if rows := certificateRows(items); len(rows) > 1 {
		out.WriteByte('\n')
		table(&out, rows)
	}
	remarks(&out, items)
	_, err := w.Write(out.Bytes())
	return err
}

// remarks says what there is to do about items, and what was noticed of them.
func remarks(out *bytes.Buffer, items []client.Item) {
	var text bytes.Buffer
	for _, i := range items {
		if i.Hint != "" {
			line(&text, "to do", i.Kind+" "+i.Name+": "+i.Hint)
		}
		if i.Notice != "" {
			line(&text, "notice", i.Kind+" "+i.Name+": "+i.Notice)
		}
	}
	if text.Len() > 0 {
		out.WriteByte('\n')
		out.Write(text.Bytes())
	}
}

// runwayText says how long everything still works, or what does not any more.
func runwayText(s *client.Status, now time.Time) string {
	r := s.Runway
	switch {
	case r.Until.IsZero():
		return "nothing runs out"
	case r.Seconds > 0:
		return span(r.Until.Sub(now)) + ", until " + instant(r.Until) + ", then " + r.First
	}
	for _, i := range s.Items {
		if i.Kind+" "+i.Name == r.First {
			return "over: " + r.First + " is " + i.State
		}
	}
	return "over: " + r.First
}

// hsmText says how a token stands.
func hsmText(h client.HSMStatus) string {
	text := fmt.Sprintf("token %q", cmp.Or(h.Label, h.Name))
	if h.Open {
		text += " open"
	} else {
		text += " not open"
	}
	if h.Restarts > 0 {
		text += fmt.Sprintf(", worker restarts: %d", h.Restarts)
	}
	if !h.Open && h.Error != "" {
		text += ": " + h.Error
	}
	return text
}

// itemRows are the rows of the table of items.
func itemRows(items []client.Item) [][]string {
	rows := [][]string{{"KIND", "NAME", "STATE", "VERSION", "FRESH UNTIL", "USABLE UNTIL", "ROTATES AT", "LAST ERROR"}}
	for _, i := range items {
		version, until, last := i.Version, i.FreshUntil, i.LastError
		switch {
		case !i.ProvenAt.IsZero():
			version = "proven " + instant(i.ProvenAt)
		case !i.ReloadedAt.IsZero():
			version = "reloaded " + instant(i.ReloadedAt)
		}
		if version == "" && i.Generation > 0 {
			version = "#" + strconv.Itoa(i.Generation)
		}
		if until.IsZero() {
			until = i.NotAfter
		}
		if last != "" && !i.RetryAt.IsZero() {
			last += " (again at " + instant(i.RetryAt) + ")"
		}
		if last == "" && i.State == "missing" {
			last = i.NextReason // what it waits for
		}
		rows = append(rows, []string{i.Kind, i.Name, i.State, version, instant(until), instant(i.UsableUntil), instant(i.RotatesAt), last})
	}
	return rows
}

// certificateRows are the rows of the table of certificates: which they are, and
// what happens to them next.
func certificateRows(items []client.Item) [][]string {
	rows := [][]string{{"CERTIFICATE", "SERIAL", "NOT AFTER", "NEXT", "AT", "TRIES", "REASON"}}
	for _, i := range items {
		if i.NextAction == "" || i.Kind != "identity" && i.Kind != "certificate" {
			continue
		}
		tries := ""
		if i.Failures > 0 {
			tries = strconv.Itoa(i.Failures)
		}
		rows = append(rows, []string{i.Name, i.Serial, instant(i.NotAfter), i.NextAction, instant(i.NextAt), tries, i.NextReason})
	}
	return rows
}

// newPlan is `signet plan`.
func newPlan(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what will happen next, and when",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := p.agent().Plan(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return copyJSON(p.stdout, plan.JSON)
			}
			now := time.Now()
			rows := [][]string{{"AT", "IN", "KIND", "NAME", "WHAT", "WHY"}}
			for _, s := range plan.Steps {
				rows = append(rows, []string{instant(s.At), span(s.At.Sub(now)), s.Kind, s.Name, s.Action, s.Reason})
			}
			var out bytes.Buffer
			table(&out, rows)
			if len(plan.Files) > 0 {
				out.WriteByte('\n')
				table(&out, fileRows(plan.Files))
			}
			_, err = p.stdout.Write(out.Bytes())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// fileRows is what is written where, whose it is, and who is told.
func fileRows(files []client.PlannedFile) [][]string {
	rows := [][]string{{"FILE", "CONTENT", "OWNER", "MODE", "ACL", "DUE", "TEST", "RELOAD", "PROVE", "REMOVED"}}
	for _, f := range files {
		rows = append(rows, []string{f.Path, f.Content, account(f.Owner, f.UID) + ":" + account(f.Group, f.GID), f.Mode, strings.Join(f.ACL, " "),
			f.Action, strings.Join(f.Test, " "), f.Reload, f.Prove, f.Removed})
	}
	return rows
}

// account is a user or a group, with its number: the agent's own has no name here.
func account(name string, id int) string {
	number := strconv.Itoa(id)
	switch {
	case id < 0:
		return name + "(unknown here)"
	case name == "" || name == number:
		return number
	}
	return name + "(" + number + ")"
}

// newDoctor is `signet doctor`.
func newDoctor(p *program) *cobra.Command {
	var asJSON, clearGuard bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the HSM, PIN, upstreams, clock, permissions and consumers live",
		Long: `Have the agent check the HSM, the state of its PIN, the upstreams, the clock,
permissions and consumers. Exit status 1 if a check failed.

A PIN that a token refused is not tried again, because a few more tries would
lock the token. --clear-pin-guard has it tried once more, on every token that is
not open, before the checks.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clearGuard {
				if err := p.clearPINGuards(cmd.Context()); err != nil {
					return err
				}
			}
			d, err := p.agent().Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = copyJSON(p.stdout, d.JSON)
			} else {
				err = printChecks(p.stdout, d.Checks)
			}
			failed := 0
			for _, c := range d.Checks {
				if c.Status == "failed" {
					failed++
				}
			}
			if failed > 0 {
				err = errors.Join(err, fmt.Errorf("doctor: %d of %d checks failed", failed, len(d.Checks)))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&clearGuard, "clear-pin-guard", false, "first have refused PINs tried once more")
	return cmd
}

// clearPINGuards has the PINs of all closed tokens tried once more.
func (p *program) clearPINGuards(ctx context.Context) error {
	s, err := p.agent().Status(ctx)
	if err != nil {
		return err
	}
	for _, h := range s.HSM {
		if !h.Open {
			if err := p.agent().ClearPINGuard(ctx, h.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// printChecks prints what the agent found, and below each trouble what to do.
func printChecks(w io.Writer, checks []client.Check) error {
	var out bytes.Buffer
	for _, c := range checks {
		text := c.Name
		if c.Detail != "" {
			text += ": " + c.Detail
		}
		line(&out, c.Status, text)
		if c.Hint != "" {
			line(&out, "", "-> "+c.Hint)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// line prints a label and a text.
func line(w *bytes.Buffer, label, text string) {
	fmt.Fprintf(w, "%-8s %s\n", printable(label), printable(text))
}

// table prints rows in columns. An empty cell is a dash.
func table(w *bytes.Buffer, rows [][]string) {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			end := "\t"
			if i == len(row)-1 {
				end = "\n"
			}
			fmt.Fprint(columns, printable(cell)+end)
		}
	}
	columns.Flush()
}

// instant is a time for people: RFC 3339 to the second, and nothing for none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// span is a time to wait for people, in its two largest units.
func span(d time.Duration) string {
	switch {
	case d <= 0:
		return "now"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	const day = 24 * time.Hour
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// copyJSON prints JSON of the agent's as it is, indented.
func copyJSON(w io.Writer, text json.RawMessage) error {
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(text), "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}
