// Package itemref finds the items that a template names by its functions
// secret and certificate, so that the configuration can be checked and a file
// waits for all that it needs.
package itemref

import (
	"fmt"
	"maps"
	"slices"
	"text/template/parse"
)

// The functions that name items; also the kinds of items.
const (
	Secret      = "secret"
	Certificate = "certificate"
)

// A Ref is an item that a template names.
type Ref struct{ Kind, Name string }

// Find finds all items that the trees name, and the functions that they use. An
// item whose name is not there as it is, but made by the template, is an error:
// it would not be known what the file waits for.
func Find(trees map[string]*parse.Tree) (refs []Ref, functions []string, err error) {
	f := finder{functions: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if t := trees[name]; t != nil && t.Root != nil {
			f.walk(t.Root)
		}
	}
	return f.refs, slices.Sorted(maps.Keys(f.functions)), f.err
}

type finder struct {
	refs      []Ref
	functions map[string]bool
	err       error
}

func (f *finder) walk(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, c := range n.Nodes {
			f.walk(c)
		}
	case *parse.ActionNode:
		f.walk(n.Pipe)
	case *parse.TemplateNode:
		f.walk(n.Pipe)
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for _, c := range n.Cmds {
			f.walk(c)
		}
	case *parse.CommandNode:
		f.command(n)
	case *parse.ChainNode:
		f.walk(n.Node)
	case *parse.IfNode:
		f.branch(&n.BranchNode)
	case *parse.RangeNode:
		f.branch(&n.BranchNode)
	case *parse.WithNode:
		f.branch(&n.BranchNode)
	case *parse.IdentifierNode:
		f.functions[n.Ident] = true
		if n.Ident == Secret || n.Ident == Certificate {
			f.err = fmt.Errorf("%s needs the name in quotes, like %s \"NAME\"", n.Ident, n.Ident)
		}
	}
}

func (f *finder) branch(b *parse.BranchNode) {
	f.walk(b.Pipe)
	f.walk(b.List)
	f.walk(b.ElseList)
}

func (f *finder) command(c *parse.CommandNode) {
	args := c.Args
	if id, ok := args[0].(*parse.IdentifierNode); ok && len(args) > 1 && (id.Ident == Secret || id.Ident == Certificate) {
		if s, ok := args[1].(*parse.StringNode); ok {
			f.functions[id.Ident] = true
			f.refs = append(f.refs, Ref{id.Ident, s.Text})
			args = args[2:]
		}
	}
	for _, a := range args {
		f.walk(a)
	}
}
