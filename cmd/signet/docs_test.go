package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md")

// docs/cli.md says what the help says, no more and no less.
func TestDocsAreTheHelp(t *testing.T) {
	const file = "../../docs/cli.md"
	want := cliDocs()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the commands say: go test ./cmd/signet -run Docs -update", file)
	}
}

// Every command says in a line what it does, and takes the arguments that its
// usage line names.
func TestEveryCommandIsDescribed(t *testing.T) {
	each(newRoot(&program{}), func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short description %q", c.CommandPath(), c.Short)
		}
		if c.Args == nil {
			t.Errorf("%s: takes any arguments", c.CommandPath())
		}
	})
}

// each calls f with a command and all below it.
func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		each(sub, f)
	}
}

func cliDocs() []byte {
	var out bytes.Buffer
	out.WriteString("# The command line\n\n")
	out.WriteString("This page is what `signet help` says; a test keeps it so (`go test ./cmd/signet -run Docs -update` writes it).\n")
	root := newRoot(&program{})
	each(root, func(c *cobra.Command) {
		level := "##"
		if c.Parent() != nil && c.Parent() != root {
			level = "###"
		}
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		fmt.Fprintf(&out, "\n%s %s\n\n%s\n", level, c.CommandPath(), markdown(text))
		usage := c.UseLine()
		if c.HasSubCommands() {
			usage = c.CommandPath() + " COMMAND"
		}
		fmt.Fprintf(&out, "\n    %s\n", usage)
		if c.Example != "" {
			fmt.Fprintf(&out, "\nFor example:\n\n%s\n", indent(c.Example))
		}
		if flags := strings.TrimRight(c.LocalFlags().FlagUsages(), "\n"); flags != "" {
			fmt.Fprintf(&out, "\n%s\n", indent(flags))
		}
	})
	return out.Bytes()
}

// markdown makes code of what is indented in help.
func markdown(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "  ") {
			lines[i] = "  " + line
			if i > 0 && lines[i-1] != "" && !strings.HasPrefix(lines[i-1], "  ") {
				lines[i] = "\n" + lines[i]
			}
		}
	}
	return strings.Join(lines, "\n")
}

// indent makes a block of code.
func indent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight("    "+strings.TrimPrefix(line, "  "), " ")
	}
	return strings.Join(lines, "\n")
}
