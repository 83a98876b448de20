// Package itemref finds the items that a template names by its functions
// secret and certificate, so that the configuration can be checked and a file
// waits for all that it needs.
package itemref

import (
	"errors"
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
// item or a field whose name is not there as it is, but made by the template, is
// an error: it would not be known what the file waits for, and a value in place
// of a name would be in messages, which repeat names. So is a template that none
// of the trees is.
func Find(trees map[string]*parse.Tree) (refs []Ref, functions []string, err error) {
	f := finder{trees: trees, functions: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if t := trees[name]; t != nil && t.Root != nil {
			f.walk(t.Root)
		}
	}
	return f.refs, slices.Sorted(maps.Keys(f.functions)), f.err
}

type finder struct {
	trees     map[string]*parse.Tree
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
		if f.trees[n.Name] == nil {
			f.err = fmt.Errorf("template %q is not defined", n.Name)
		}
		f.walk(n.Pipe)
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for i, c := range n.Cmds {
			f.command(c, i > 0)
		}
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
			f.needs(n.Ident)
		}
	}
}

// needs notes that a function was not called as it has to be.
func (f *finder) needs(function string) {
	f.err = fmt.Errorf("%s needs the name in quotes, like %s \"NAME\"", function, function)
	if function == Secret {
		f.err = errors.New(`secret needs its names in quotes and nothing else, like secret "NAME" or secret "NAME" "FIELD"`)
	}
}

func (f *finder) branch(b *parse.BranchNode) {
	f.walk(b.Pipe)
	f.walk(b.List)
	f.walk(b.ElseList)
}

// command finds what is in one command. If it is piped to, it has an argument
// more than is written there.
func (f *finder) command(c *parse.CommandNode, piped bool) {
	id, ok := c.Args[0].(*parse.IdentifierNode)
	if !ok || id.Ident != Secret && id.Ident != Certificate {
		for _, a := range c.Args {
			f.walk(a)
		}
		return
	}
	f.functions[id.Ident] = true
	names := c.Args[1:]
	most := 1
	if id.Ident == Secret {
		most = 2 // and a field
	}
	literal := !slices.ContainsFunc(names, func(n parse.Node) bool { return n.Type() != parse.NodeString })
	if piped || !literal || len(names) == 0 || len(names) > most {
		f.needs(id.Ident)
		return
	}
	f.refs = append(f.refs, Ref{id.Ident, names[0].(*parse.StringNode).Text})
}
