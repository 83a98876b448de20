package config

import (
	"errors"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// parse reads the syntax alone. It returns no node for a file with nothing in
// it.
func (d *decoder) parse(data []byte) (root ast.Node) {
	// The library's parser has been seen to panic on input that is not YAML.
	// Whatever it stumbles over, the file is at fault and not the agent.
	defer func() {
		if r := recover(); r != nil {
			d.faults = append(d.faults, Fault{File: d.file, Line: 1, Col: 1, What: "is not YAML"})
			root = nil
		}
	}()
	for i, piece := range pieces(lexer.Tokenize(string(data)), d.run) {
		f, err := parser.Parse(piece, 0, parser.AllowDuplicateMapKey())
		if err != nil {
			d.syntaxFault(err)
			return nil
		}
		if i == 0 {
			root = d.document(f)
		} else {
			rejoin(root.(*ast.MappingNode), f.Docs[0].Body.(*ast.MappingNode))
		}
	}
	return root
}

// document is the body of the only document of a file.
func (d *decoder) document(f *ast.File) (root ast.Node) {
	for _, doc := range f.Docs {
		switch {
		case doc.Body == nil:
		case root != nil:
			d.faultAt(doc.Body.GetToken(), "", "one file is one document", "remove the --- line")
		default:
			root = doc.Body
		}
	}
	return root
}

func (d *decoder) syntaxFault(err error) {
	fault := Fault{File: d.file, Line: 1, Col: 1, What: "is not YAML"}
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		fault.What += ": " + firstLine(syntax.GetMessage())
		fault.Line, fault.Col = syntax.GetToken().Position.Line, syntax.GetToken().Position.Column
	}
	d.faults = append(d.faults, fault)
}

// maxRun is how many entries of a section the library is given at once. Its time
// and memory grow with the square of that: of ten thousand secrets it made 400 MB
// of garbage.
const maxRun = 100

// pieces cuts a file with long sections into several with shorter ones: each but
// the first begins with the key of the section that it goes on with. It cuts only
// block mappings right below a key of the file, and no file of several documents.
func pieces(tokens token.Tokens, run int) []token.Tokens {
	tokens = slices.DeleteFunc(tokens, func(tk *token.Token) bool { return tk.Type == token.CommentType })
	var (
		all     []token.Tokens
		section token.Tokens // the key of the section and its colon
		column  int          // of the section's entries; 0 if it is not to be cut
		entries int
		depth   int          // of brackets
		prefix  token.Tokens // of the piece that begins
		begin   int          // at
	)
	isKey := func(i int) bool { return i+1 < len(tokens) && tokens[i+1].Type == token.MappingValueType }
	for i, tk := range tokens {
		switch tk.Type {
		case token.DocumentHeaderType, token.DocumentEndType:
			return []token.Tokens{tokens}
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
			continue
		}
		if depth > 0 || !isKey(i) {
			continue
		}
		switch tk.Position.Column {
		case tokens[0].Position.Column:
			section, column, entries = tokens[i:i+2], 0, 0
			if isKey(i + 2) {
				column = tokens[i+2].Position.Column
			}
		case column:
			if entries++; entries > run {
				all = append(all, slices.Concat(prefix, tokens[begin:i]))
				prefix, begin, entries = section, i, 1
			}
		}
	}
	return append(all, slices.Concat(prefix, tokens[begin:]))
}

// rejoin adds to a mapping the next piece of it.
func rejoin(root, next *ast.MappingNode) {
	section := root.Values[len(root.Values)-1].Value.(*ast.MappingNode)
	section.Values = append(section.Values, next.Values[0].Value.(*ast.MappingNode).Values...)
	root.Values = append(root.Values, next.Values[1:]...)
}
