package files

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/signet-agent/signet/internal/itemref"
	"github.com/signet-agent/signet/sinks"
)

// functions are what templates can use beside the builtin ones, and what
// docs/files.md lists. Those that need items are bound when a template runs.
var functions = template.FuncMap{
	"base64":      func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"json":        func(v any) (string, error) { b, err := marshal(v); return strings.TrimSuffix(string(b), "\n"), err },
	"env":         quoteEnv,
	"url":         func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") },
	"indent":      indent,
	"secret":      func(string, ...string) (any, error) { return nil, errUnbound },
	"certificate": func(string) (any, error) { return nil, errUnbound },
}

var errUnbound = errors.New("no items here")

// indent puts n spaces before each line but the first, as YAML wants it below a
// key.
func indent(n int, s string) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", min(max(n, 0), 64)))
}

// parseTemplate compiles the template and notes which items it names.
func (e *entry) parseTemplate() (err error) {
	e.tmpl, err = template.New(e.name).Option("missingkey=error").Funcs(functions).Parse(e.Template)
	if err != nil {
		return err
	}
	trees := map[string]*parse.Tree{}
	for _, sub := range e.tmpl.Templates() {
		trees[sub.Name()] = sub.Tree
	}
	refs, _, err := itemref.Find(trees)
	if err != nil {
		return err
	}
	for _, r := range refs {
		if !slices.Contains(e.needs, r) {
			e.needs = append(e.needs, r)
		}
	}
	if len(e.needs) == 0 {
		return errors.New(`the template names no item; write {{ secret "NAME" "FIELD" }} or {{ (certificate "NAME").chain }}`)
	}
	return nil
}

// execute runs the template.
func (e *entry) execute(its items) ([]byte, error) {
	data := map[string]any{}
	var err error
	if s := its[secretRef(e.Secret)].secret; s != nil {
		data = secretData(s)
	}
	if c := its[certificateRef(e.Certificate)].cert; c != nil {
		if data, err = certificateData(c); err != nil {
			return nil, err
		}
	}
	tmpl, err := e.tmpl.Clone() // the functions are bound to these items
	if err != nil {
		return nil, err
	}
	tmpl.Funcs(template.FuncMap{kindSecret: its.secretFunc, kindCertificate: its.certificateFunc})
	var b bytes.Buffer
	if err := tmpl.Execute(&b, data); err != nil {
		return nil, withoutValues(err)
	}
	if b.Len() == 0 {
		return nil, errors.New("the template gives nothing")
	}
	return b.Bytes(), nil
}

// tellable are the beginnings of those reasons for a failure that have no value
// in them. text/template prints what it cannot compare or iterate over.
var tellable = []string{
	"map has no entry for key ", "can't evaluate field ", "wrong number of args for ", "wrong type for value; ", "invalid value; ",
	"exceeded maximum template depth", "error calling index: ", "error calling slice: ", "error calling len: ",
	"error calling secret: ", "error calling certificate: ", "error calling json: ", "error calling env: ",
}

// withoutValues is why a template failed: where in its text, and the reason
// where that has no value in it.
func withoutValues(err error) error {
	where, reason, ok := strings.Cut(err.Error(), ">: ")
	if !ok || slices.ContainsFunc(tellable, func(t string) bool { return strings.HasPrefix(reason, t) }) {
		return err
	}
	return errors.New(where + ">: a value is not of the kind that is wanted there")
}

// secretFunc is the template function: the data of a secret, or one field.
func (its items) secretFunc(name string, field ...string) (any, error) {
	s := its[secretRef(name)].secret
	if s == nil {
		return nil, fmt.Errorf("secret %q is not there yet", name)
	}
	switch len(field) {
	case 0:
		return secretData(s), nil
	case 1:
		v, ok := s.Fields.Get(field[0])
		if !ok {
			return nil, noField(s, field[0])
		}
		return string(v.Reveal()), nil
	}
	return nil, errors.New("secret takes a name and a field")
}

func (its items) certificateFunc(name string) (any, error) {
	c := its[certificateRef(name)].cert
	if c == nil {
		return nil, fmt.Errorf("certificate %q is not there yet", name)
	}
	return certificateData(c)
}

func secretData(s *sinks.Secret) map[string]any {
	fields := map[string]string{}
	for _, f := range s.Fields {
		fields[f.Name] = string(f.Value.Reveal())
	}
	return map[string]any{"name": s.Name, "version": s.Version, "fields": fields,
		"fetched_at": stamp(s.FetchedAt), "rotates_at": stamp(s.RotatesAt)}
}

func certificateData(c *sinks.Certificate) (map[string]any, error) {
	if len(c.Chain) == 0 {
		return nil, errors.New("there is no certificate in the chain")
	}
	data := map[string]any{"name": c.Name, "generation": c.Generation, "serial": c.Serial,
		"certificate": string(sinks.PEM(c.Chain[:1])), "chain": string(sinks.PEM(c.Chain)),
		"key": "", "key_uri": c.KeyURI, "not_before": stamp(c.NotBefore), "not_after": stamp(c.NotAfter)}
	if len(c.Key.Reveal()) > 0 {
		key, err := c.KeyPEM()
		if err != nil {
			return nil, err
		}
		data["key"] = string(key)
	}
	return data, nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
