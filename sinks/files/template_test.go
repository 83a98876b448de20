package files

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// Whatever is done with a value in a template, an error does not repeat it, and
// nor does it repeat what was made of it.
func TestNoErrorOfATemplateHasAValue(t *testing.T) {
	const value = "hunter2"
	it := item{secret: &sinks.Secret{Name: "db", Fields: sinks.FieldsOf(map[string]secret.Value{
		"password": secret.New([]byte(value)), "binary": secret.New([]byte(value + "\xff\x00"))})}}
	all := slices.AppendSeq([]string{"and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println",
		"urlquery", "eq", "ge", "gt", "le", "lt", "ne"}, maps.Keys(functions))
	args := []string{"", ` .fields.password`, ` .fields.binary`, ` .fields`, ` .fields.nope`, ` (secret "db" "password")`, ` (secret "db")`,
		` (base64 .fields.password)`, ` "password"`, ` 9`, ` nil`, ` .`}
	var texts []string
	for _, f := range all {
		for _, a := range args {
			for _, b := range args {
				texts = append(texts, f+a+b, f+a+b+" 1", f+` "x"`+a+b)
				if a != "" {
					texts = append(texts, a+" | "+f+b)
				}
			}
		}
	}
	for _, a := range args[1:] {
		texts = append(texts, a, "range"+a, "if"+a, "with"+a, "template \"sub\""+a, a+".field", "$x :="+a, "range $i, $x :="+a)
	}
	failed := 0
	for _, text := range texts {
		body := "{{ " + text + " }}"
		if word, _, _ := strings.Cut(text, " "); word == "range" || word == "if" || word == "with" {
			body += "{{ . }}{{ end }}"
		}
		e, err := compileEntry(File{Path: "/x", Secret: "db", Template: `{{ define "sub" }}{{ range . }}{{ end }}{{ . | len | len }}{{ end }}` + body})
		if err == nil {
			_, err = e.render(items{secretRef("db"): it})
		}
		if err == nil {
			continue
		}
		failed++
		if got := err.Error(); strings.Contains(got, value) || strings.Contains(got, base64.StdEncoding.EncodeToString([]byte(value))) {
			t.Errorf("{{ %s }}: %v", text, err)
		}
	}
	if failed < len(texts)/4 {
		t.Errorf("%d of %d failed; this looks at too few errors", failed, len(texts))
	}
}

// A reason without a value in it is told.
func TestReasonsOfTemplatesAreTold(t *testing.T) {
	it := item{secret: &sinks.Secret{Name: "db", Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte("hunter2\x00"))})}}
	for text, want := range map[string]string{
		`{{ secret "db" "nope" }}`:                  `secret "db" has no field "nope"; it has password`,
		`{{ .fields.nope }}`:                        `map has no entry for key "nope"`,
		`{{ env .fields.password }}`:                "a NUL byte cannot be in an environment",
		`{{ base64 .fields }}`:                      "wrong type for value; expected string; got map[string]string",
		"ok\n{{ range .fields.password }}{{ end }}": "x:2:16: executing \"x\" at <.fields.password>: a value is not of the kind that is wanted there",
	} {
		if _, err := rendered(t, File{Secret: "db", Template: text}, it); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
