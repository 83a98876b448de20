package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// A decoder turns the syntax tree of a file into a Config. It is written out
// here, and not left to the library's own decoder, because that one stops at
// the first fault and forgets where things stood.
type decoder struct {
	file    string
	run     int // see maxRun
	faults  []Fault
	places  map[string]place // of everything that is in the file, by path
	anchors map[string]ast.Node
	fields  map[reflect.Type]map[string][]int // of each struct, see fieldsOf
	depth   int
}

func newDecoder(file string) *decoder {
	return &decoder{
		file: file, run: maxRun, places: map[string]place{}, anchors: map[string]ast.Node{},
		fields: map[reflect.Type]map[string][]int{},
	}
}

// maxDepth is more than any sound file needs and little enough for the stack.
const maxDepth = 32

// A decodable decodes itself from other than its fields.
type decodable interface {
	decode(d *decoder, path string, n ast.Node)
}

// fault records what is wrong with what is at path, or with what is nearest to
// it if that is not in the file.
func (d *decoder) fault(path, what, hint string) {
	d.faults = append(d.faults, d.faultOf(path, what, hint))
}

func (d *decoder) faultOf(path, what, hint string) Fault {
	f := Fault{File: d.file, Line: 1, Col: 1, Path: path, What: what, Hint: hint}
	for p := path; p != ""; p = parent(p) {
		if at, ok := d.places[p]; ok {
			f.Line, f.Col = at.line, at.col
			break
		}
	}
	return f
}

func (d *decoder) faultAt(tk *token.Token, path, what, hint string) {
	f := Fault{File: d.file, Path: path, What: what, Hint: hint}
	if tk != nil && tk.Position != nil {
		f.Line, f.Col = tk.Position.Line, tk.Position.Column
	}
	d.faults = append(d.faults, f)
}

// resolve follows anchors and aliases to the node that holds the value.
func (d *decoder) resolve(path string, n ast.Node) ast.Node {
	for range maxDepth {
		switch v := n.(type) {
		case *ast.AnchorNode:
			d.anchors[v.Name.GetToken().Value] = v.Value
			n = v.Value
		case *ast.AliasNode:
			target := d.anchors[v.Value.GetToken().Value]
			if target == nil {
				d.faultAt(n.GetToken(), path, "the alias has no anchor before it", "")
				return nil
			}
			n = target
		case *ast.TagNode:
			d.faultAt(n.GetToken(), path, "tags are not used here", "remove "+v.Start.Value)
			return nil
		default:
			return n
		}
	}
	d.faultAt(n.GetToken(), path, "the alias leads to itself", "")
	return nil
}

// value decodes n into v, which can be set.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if d.depth++; d.depth > maxDepth {
		d.depth--
		d.faultAt(n.GetToken(), path, "is nested too deeply", "")
		return
	}
	defer func() { d.depth-- }()
	n = d.resolve(path, n)
	if n == nil {
		return
	}
	if c, ok := v.Addr().Interface().(decodable); ok {
		if _, null := n.(*ast.NullNode); !null {
			c.decode(d, path, n)
		} else {
			d.fault(path, "has no value", "give it one or remove the key")
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.list(path, n, v)
	default:
		d.scalar(path, n, v)
	}
}

// An entry is one of a mapping.
type entry struct {
	path string
	key  *token.Token
	val  ast.Node
}

// entries yields the entries of a mapping, each key once. A section with nothing
// in it, as when all its lines are comments, is empty.
func (d *decoder) entries(path string, n ast.Node, each func(entry)) {
	if _, ok := n.(*ast.NullNode); ok {
		return
	}
	m, ok := n.(ast.MapNode)
	if !ok {
		d.fault(path, "is "+kind(n)+", want keys with values", "")
		return
	}
	for it := m.MapRange(); it.Next(); {
		tk := it.Key().GetToken()
		if it.Key().IsMergeKey() {
			d.faultAt(tk, path, "merge keys are not used here", "write the keys out")
			continue
		}
		if _, complex := it.Key().(*ast.MappingKeyNode); complex {
			d.faultAt(tk, path, "a key must be a plain word", "")
			continue
		}
		at := join(path, tk.Value)
		if _, twice := d.places[at]; twice {
			d.faultAt(tk, at, "is there twice", "remove one of them")
			continue
		}
		d.places[at] = placeOf(tk, it.Value())
		each(entry{at, tk, it.Value()})
	}
}

// A place is a line and a column of a file, counted from 1.
type place struct{ line, col int }

// placeOf is where a fault of a value is shown: the value itself if it is on one
// line with its key, else the key.
func placeOf(key *token.Token, val ast.Node) place {
	if val != nil && val.GetToken() != nil && val.GetToken().Position != nil {
		switch val.(type) {
		case ast.MapNode, *ast.SequenceNode, *ast.NullNode, *ast.LiteralNode:
		default:
			key = val.GetToken()
		}
	}
	return place{key.Position.Line, key.Position.Column}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	fields := d.fieldsOf(v.Type())
	d.entries(path, n, func(e entry) {
		index, ok := fields[e.key.Value]
		if !ok {
			d.faultAt(e.key, e.path, "unknown key", guess(e.key.Value, fields).String())
			return
		}
		d.value(e.path, e.val, v.FieldByIndex(index))
	})
}

// fieldsOf are the fields of a struct by their keys, those of inlined structs
// among them.
func (d *decoder) fieldsOf(typ reflect.Type) map[string][]int {
	if fields, ok := d.fields[typ]; ok {
		return fields
	}
	fields := map[string][]int{}
	for i := range typ.NumField() {
		tag, opts, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
		switch {
		case opts == "inline":
			for k, index := range d.fieldsOf(typ.Field(i).Type) {
				fields[k] = append([]int{i}, index...)
			}
		case tag != "":
			fields[tag] = []int{i}
		}
	}
	d.fields[typ] = fields
	return fields
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	m := reflect.MakeMap(v.Type())
	d.entries(path, n, func(e entry) {
		val := reflect.New(v.Type().Elem()).Elem()
		d.value(e.path, e.val, val)
		m.SetMapIndex(reflect.ValueOf(strings.Clone(e.key.Value)), val)
	})
	v.Set(m)
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value) {
	if _, ok := n.(*ast.NullNode); ok {
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fault(path, "is "+kind(n)+", want a list", "write it as [..]")
		return
	}
	s := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, e := range seq.Values {
		at := path + "[" + strconv.Itoa(i) + "]"
		if e == nil {
			d.fault(at, "has no value", "")
			continue
		}
		d.places[at] = itemPlace(e)
		d.value(at, e, s.Index(i))
	}
	v.Set(s)
}

// itemPlace is where an item of a list begins. The token of a mapping is its
// first colon or brace; people look for its first key.
func itemPlace(n ast.Node) place {
	tk := n.GetToken()
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		tk = m.Values[0].Key.GetToken()
	}
	return place{tk.Position.Line, tk.Position.Column}
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if s, ok := d.text(path, n); ok {
			v.SetString(strings.Clone(s)) // it lies among the tokens of the file, which are let go
		}
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
			return
		}
		d.fault(path, "is "+kind(n)+", want true or false", "")
	case reflect.Int, reflect.Int64:
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			d.fault(path, "is "+kind(n)+", want a number", "")
			return
		}
		x, err := strconv.ParseInt(i.GetToken().Value, 10, 64)
		if err != nil || v.OverflowInt(x) {
			d.fault(path, strconv.Quote(clip(i.GetToken().Value))+" is not a whole number that can be used here", "")
			return
		}
		v.SetInt(x)
	default:
		panic(fmt.Sprintf("config: no way to decode %v", v.Type()))
	}
}

// text is a scalar as it is written: client_id: 0123 is "0123".
func (d *decoder) text(path string, n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		d.fault(path, "has no value", "give it one or remove the key")
	case *ast.BoolNode:
		d.fault(path, "is "+kind(n)+", want text", `put it in quotes: "`+n.GetToken().Value+`"`)
	default:
		d.fault(path, "is "+kind(n)+", want text", "")
	}
	return "", false
}

func kind(n ast.Node) string {
	switch n := n.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	case *ast.BoolNode:
		return n.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	}
	return "text"
}

// join is the path of a key. One that would not read as a plain word in it is
// quoted, and whole: no two things have the same path, and a report stays one
// line for each fault.
func join(path, key string) string {
	odd := func(r rune) bool { return r <= ' ' || !strconv.IsPrint(r) }
	if key == "" || strings.ContainsAny(key, `.["`) || strings.ContainsFunc(key, odd) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// parent is the path of what holds what is at path. Of a quoted key it may be
// less of that key, where nothing is; what holds it is found further out.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// clip keeps a quoted value from filling the screen.
func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
