package config

import (
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// decode takes one token as a mapping, or a list of them.
func (h *HSMs) decode(d *decoder, path string, n ast.Node) {
	if _, ok := n.(*ast.SequenceNode); ok {
		var list []HSM
		d.list(path, n, reflect.ValueOf(&list).Elem())
		*h = list
		return
	}
	*h = make(HSMs, 1)
	d.structure(path, n, reflect.ValueOf(&(*h)[0]).Elem())
}

func (v *Duration) decode(d *decoder, path string, n ast.Node) {
	s, ok := d.text(path, n)
	if !ok {
		return
	}
	dur, err := ParseDuration(s)
	switch {
	case err != nil:
		what, hint, _ := strings.Cut(err.Error(), "; ")
		d.fault(path, what, hint)
	case dur < 0:
		d.fault(path, s+" is negative", "")
	default:
		v.Duration, v.Set = dur, true
	}
}

func (w *Window) decode(d *decoder, path string, n ast.Node) {
	s, ok := d.text(path, n)
	if !ok {
		return
	}
	parsed, err := ParseWindow(s)
	if err != nil {
		what, hint, _ := strings.Cut(err.Error(), "; ")
		d.fault(path, what, hint)
		return
	}
	*w = parsed
}

const sourceForms = "write {file: PATH}, {credential: NAME} or {env: NAME}"

// decode refuses a secret that is written out, without repeating it.
func (s *Source) decode(d *decoder, path string, n ast.Node) {
	if _, ok := n.(ast.MapNode); !ok {
		d.fault(path, "a secret cannot be written into this file", sourceForms)
		return
	}
	d.structure(path, n, reflect.ValueOf(s).Elem())
}

func (t *TextOrSource) decode(d *decoder, path string, n ast.Node) {
	if _, ok := n.(ast.MapNode); ok {
		t.Source.decode(d, path, n)
		return
	}
	t.Text, _ = d.text(path, n)
}
