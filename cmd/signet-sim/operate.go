package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// simulators are what the other commands can name.
var simulators = []string{"manager", "senhasegura", "ciphertrust"}

// simulator checks the name of one.
func simulator(name string) error {
	if !slices.Contains(simulators, name) {
		return usageError{fmt.Errorf("simulator %q: want one of %s", name, strings.Join(simulators, ", "))}
	}
	return nil
}

// A controller talks to the control socket of a running `serve`.
type controller struct{ dir string }

// call sends in as JSON, unless it is nil, and reads the answer into out, unless
// that is nil.
func (c controller) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, body)
	if err != nil {
		return err
	}
	socket := filepath.Join(c.dir, controlName)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: no answer: is signet-sim serve running with this --dir?", socket)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("refused: %s", strings.TrimSpace(string(b)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	return nil
}

func faultCommand(dir *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "fault",
		Short: "Make a simulator go wrong",
		Long: `A fault makes the calls that it matches go wrong, until it is cleared or has
happened --count times. Faults are gone when serve is started again.

    signet-sim fault add senhasegura status --status 429 --retry-after 5 --count 2
    signet-sim fault add senhasegura drop --path '/iso/pam/*'
    signet-sim fault add manager lost-reply --path '*/rotateClientKey.adm' --count 1
    signet-sim fault clear senhasegura`,
	}
	c.AddCommand(addFaultCommand(dir),
		&cobra.Command{
			Use: "list SIMULATOR", Short: "List the faults that are on", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return faults(c, *dir, "GET", args) },
		},
		&cobra.Command{
			Use: "clear SIMULATOR [ID]", Short: "Switch one fault off, or all", Args: cobra.RangeArgs(1, 2),
			RunE: func(c *cobra.Command, args []string) error { return faults(c, *dir, "DELETE", args) },
		})
	return c
}

func addFaultCommand(dir *string) *cobra.Command {
	var f upstreamtest.Fault
	var delay time.Duration
	c := &cobra.Command{
		Use:   "add SIMULATOR KIND",
		Short: "Switch a fault on",
		Long: `KIND is
    status       answer --status (with --retry-after and --body) instead of handling the call
    slow         wait for --delay, then handle the call
    drop         close the connection without handling the call
    lost-reply   handle the call fully, then close the connection
    wrong-ca     show a server certificate of a CA nobody knows`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := simulator(args[0]); err != nil {
				return err
			}
			f.Kind, f.Delay = upstreamtest.FaultKind(args[1]), upstreamtest.Duration(delay)
			if err := (controller{*dir}).call(c.Context(), "POST", "/"+args[0]+"/faults", f, &f); err != nil {
				return err
			}
			printFaults(c.OutOrStdout(), []upstreamtest.Fault{f})
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.Method, "method", "", "HTTP `method` to match")
	flags.StringVar(&f.Path, "path", "", "`pattern` of paths to match; * is any run of characters")
	flags.IntVar(&f.Skip, "skip", 0, "how many matching calls go well first")
	flags.IntVar(&f.Count, "count", 0, "how many calls go wrong; 0 is all")
	flags.IntVar(&f.Status, "status", 0, "HTTP status to answer")
	flags.StringVar(&f.RetryAfter, "retry-after", "", "Retry-After header to answer")
	flags.StringVar(&f.Body, "body", "", "body to answer")
	flags.DurationVar(&delay, "delay", 0, "how long to wait")
	return c
}

// faults lists or clears the faults of a simulator.
func faults(c *cobra.Command, dir, method string, args []string) error {
	if err := simulator(args[0]); err != nil {
		return err
	}
	path := "/" + args[0] + "/faults"
	if len(args) == 2 {
		path += "/" + url.PathEscape(args[1])
	}
	var list []upstreamtest.Fault
	if err := (controller{dir}).call(c.Context(), method, path, nil, &list); err != nil {
		return err
	}
	printFaults(c.OutOrStdout(), list)
	return nil
}

func printFaults(w io.Writer, list []upstreamtest.Fault) {
	for _, f := range list {
		fmt.Fprintf(w, "fault %d: %s", f.ID, f.Kind)
		if f.Status != 0 {
			fmt.Fprintf(w, " %d", f.Status)
		}
		if f.Delay != 0 {
			fmt.Fprintf(w, " %v", time.Duration(f.Delay))
		}
		if match := strings.TrimSpace(f.Method + " " + f.Path); match != "" {
			fmt.Fprintf(w, " for %s", match)
		}
		if f.Skip != 0 {
			fmt.Fprintf(w, ", after %d calls", f.Skip)
		}
		if f.Count != 0 {
			fmt.Fprintf(w, ", %d times", f.Count)
		}
		fmt.Fprintln(w)
	}
}

func clockCommand(dir *string) *cobra.Command {
	var advance, offset time.Duration
	var set string
	c := &cobra.Command{
		Use:   "clock [SIMULATOR]",
		Short: "Show or set the simulators' clocks",
		Long: `Each simulator has a clock of its own that starts with the real time. Without a
flag it is shown; with one it is set, for the named simulator or all of them.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var to map[string]string // nil to look only
			switch {
			case !oneOf(c, "advance", "offset", "set"):
				return usageError{errors.New("--advance, --offset and --set: want one of them")}
			case c.Flags().Changed("advance"):
				to = map[string]string{"advance": advance.String()}
			case c.Flags().Changed("offset"):
				to = map[string]string{"offset": offset.String()}
			case c.Flags().Changed("set"):
				to = map[string]string{"now": set}
			}
			names := simulators
			if len(args) == 1 {
				names = args
			}
			for _, name := range names {
				if err := clock(c, *dir, name, to); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().DurationVar(&advance, "advance", 0, "put the clock forward, or back if negative")
	c.Flags().DurationVar(&offset, "offset", 0, "make it so far ahead of the real time")
	c.Flags().StringVar(&set, "set", "", "make it this `time`, such as 2030-01-01T12:00:00Z")
	return c
}

// oneOf reports whether at most one of the flags was given.
func oneOf(c *cobra.Command, flags ...string) bool {
	n := 0
	for _, f := range flags {
		if c.Flags().Changed(f) {
			n++
		}
	}
	return n <= 1
}

// clock sets the clock of one simulator, if there is something to set, and
// prints it.
func clock(c *cobra.Command, dir, name string, to map[string]string) error {
	if err := simulator(name); err != nil {
		return err
	}
	method, in := "GET", any(nil)
	if to != nil {
		method, in = "PUT", to
	}
	var now struct {
		Now    time.Time             `json:"now"`
		Offset upstreamtest.Duration `json:"offset"`
	}
	if err := (controller{dir}).call(c.Context(), method, "/"+name+"/clock", in, &now); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s %s (%v ahead)\n", name, now.Now.Format(time.RFC3339), time.Duration(now.Offset))
	return nil
}

func logCommand(dir *string) *cobra.Command {
	var asJSON, product bool
	c := &cobra.Command{
		Use:   "log SIMULATOR",
		Short: "Show the calls that a simulator has seen",
		Long: `log shows the last calls, oldest first; status 0 is a call whose connection was
dropped. With --product it is the product's own log, which knows nothing of calls
that a fault answered: senhasegura's report "API logs", or CipherTrust's records.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := simulator(args[0]); err != nil {
				return err
			}
			if product {
				return productLog(c, *dir, args[0], asJSON)
			}
			var list []upstreamtest.Entry
			if err := (controller{*dir}).call(c.Context(), "GET", "/"+args[0]+"/log", nil, &list); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, e := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%v\n", e.Time.Format(time.RFC3339), e.IP, e.Method, e.Path, e.Status,
					time.Duration(e.Duration).Round(time.Microsecond))
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&product, "product", false, "print the log that the product itself keeps")
	return c
}

func productLog(c *cobra.Command, dir, name string, asJSON bool) error {
	switch name {
	case "ciphertrust":
		return cipherTrustLog(c, dir, asJSON)
	case "manager":
		return usageError{fmt.Errorf("--product: only senhasegura and ciphertrust have such a log")}
	}
	var list []senhaseguratest.Call
	if err := (controller{dir}).call(c.Context(), "GET", "/senhasegura/calls", nil, &list); err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tClient\tAuthorization\tIP\tResource\tEvent\tMethod\tStatus\tURL\tError\tTime\tDate Time")
	for _, e := range list {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%v\t%s\n", e.ID, e.Client, e.Authorization, e.IP, e.Resource,
			e.Event, e.Method, e.Status, e.URL, e.Error, time.Duration(e.Time).Round(time.Microsecond), e.DateTime.Format(time.RFC3339))
	}
	return w.Flush()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
