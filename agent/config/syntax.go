package config

import (
	"errors"
	"runtime"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"golang.org/x/sync/errgroup"
)

// parse reads the syntax alone. It returns no node for a file with nothing in
// it.
func (d *decoder) parse(data []byte) ast.Node {
	text := string(data)
	if all := pieces(text, d.run); len(all) > 1 {
		if root := parsePieces(all); root != nil {
			return root
		}
	}
	f, err := parseText(text, 0)
	if err != nil {
		d.syntaxFault(err)
		return nil
	}
	return d.document(f)
}

// errNotYAML is all that is known of a text that the library panics on.
var errNotYAML = errors.New("is not YAML")

// parseText gives a text to the library, which begins after so many lines of the
// file.
func parseText(text string, after int) (f *ast.File, err error) {
	// The library's parser has been seen to panic on input that is not YAML.
	// Whatever it stumbles over, the file is at fault and not the agent.
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, errNotYAML
		}
	}()
	var tokens token.Tokens
	for _, tk := range lexer.Tokenize(text) {
		if tk.Type != token.CommentType {
			tk.Position.Line += after
			tokens = append(tokens, tk)
		}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
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
	fault := Fault{File: d.file, Line: 1, Col: 1, What: errNotYAML.Error()}
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		fault.What += ": " + firstLine(syntax.GetMessage())
		fault.Line, fault.Col = syntax.GetToken().Position.Line, syntax.GetToken().Position.Column
	}
	d.faults = append(d.faults, fault)
}

// A piece is a part of a file that is a mapping by itself.
type piece struct {
	text  string
	after int // see parseText
}

// maxRun is how many entries of a section the library is given at once. Its time
// and memory grow with the square of that: of ten thousand secrets it made 400 MB
// of garbage.
const maxRun = 100

// pieces cuts a file with long sections into several with shorter ones: each but
// the first begins with the key of the section that it goes on with. It looks at
// the beginnings of lines alone: where it cuts what goes on over several of them,
// in brackets or quotes, the library finds no end of it. It cuts no file of several
// documents.
func pieces(text string, run int) []piece {
	if strings.Contains(text, "\r") { // which the library takes for the end of a line
		return nil
	}
	var (
		all     []piece
		now     piece  // that is being filled; of the file it has what follows begin
		begin   int    // in text
		section string // the line of its key; "" if it is not to be cut
		indent  int    // of its entries; 0 before the first
		entries int    // in this piece
		at, n   int    // where the line begins, and how many there were before it
	)
	for line := range strings.Lines(text) {
		switch column, value := keyOf(line); {
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "..."), line[0] == '%':
			return nil
		case isBlank(strings.TrimLeft(line, " \t")):
		case line[0] != ' ':
			section, indent, entries = "", 0, 0
			if column == 0 && isBlank(value) {
				section = line
			}
		case section != "" && indent == 0:
			if indent, entries = column, 1; column < 0 {
				section = ""
			}
		case section != "" && column == indent:
			if entries++; entries > run {
				now.text += text[begin:at]
				all = append(all, now)
				now, begin, entries = piece{section, n - 1}, at, 1
			}
		}
		at, n = at+len(line), n+1
	}
	now.text += text[begin:]
	return append(all, now)
}

// keyOf is the column of the plain key that a line begins with, the first being 0,
// and what follows it; the column is -1 if the line begins with anything else.
func keyOf(line string) (column int, value string) {
	rest := strings.TrimLeft(line, " ")
	end := strings.IndexFunc(rest, unlikeKey)
	if end < 1 || rest[end] != ':' {
		return -1, ""
	}
	value = strings.TrimLeft(rest[end+1:], " \t")
	if value == rest[end+1:] && !isBlank(value) { // as in a:b
		return -1, ""
	}
	return len(line) - len(rest), value
}

// unlikeKey reports whether a plain key ends with r, or may not be meant to.
func unlikeKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// isBlank reports whether the rest of a line is nothing, or a comment.
func isBlank(rest string) bool { return rest == "" || rest[0] == '\n' || rest[0] == '#' }

// parsePieces parses the pieces of a file, as many at once as there are
// processors, and joins them. It returns nil if one is not what a piece should be;
// only the whole file tells what is wrong with it.
func parsePieces(all []piece) *ast.MappingNode {
	roots := make([]*ast.MappingNode, len(all))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range all {
		g.Go(func() (err error) {
			roots[i], err = p.parse()
			return err
		})
	}
	if g.Wait() != nil {
		return nil
	}
	for _, next := range roots[1:] {
		if !rejoin(roots[0], next) {
			return nil
		}
	}
	return roots[0]
}

func (p piece) parse() (*ast.MappingNode, error) {
	f, err := parseText(p.text, p.after)
	if err != nil {
		return nil, err
	}
	if len(f.Docs) == 1 {
		if m, ok := f.Docs[0].Body.(*ast.MappingNode); ok && len(m.Values) > 0 {
			return m, nil
		}
	}
	return nil, errNotYAML
}

// rejoin adds to a mapping the next piece of it, and reports whether it is one.
func rejoin(root, next *ast.MappingNode) bool {
	last, first := root.Values[len(root.Values)-1], next.Values[0]
	section, ok := last.Value.(*ast.MappingNode)
	more, is := first.Value.(*ast.MappingNode)
	if !ok || !is || last.Key.GetToken().Value != first.Key.GetToken().Value {
		return false
	}
	section.Values = append(section.Values, more.Values...)
	root.Values = append(root.Values, next.Values[1:]...)
	return true
}
