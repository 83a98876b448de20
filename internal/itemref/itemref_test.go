package itemref

import (
	"slices"
	"strings"
	"testing"
	"text/template/parse"
)

func find(t *testing.T, text string) ([]Ref, []string, error) {
	t.Helper()
	tree := parse.New("t")
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(text, "", "", trees); err != nil {
		t.Fatal(err)
	}
	return Find(trees)
}

// Wherever a template names an item it is found.
func TestFindsItemsEverywhere(t *testing.T) {
	refs, functions, err := find(t, `{{ secret "a" "x" }}{{ (certificate "b").chain | base64 }}{{ if eq (secret "c" "x") "y" }}{{ env (secret "d" "x") }}`+
		`{{ else }}{{ range (secret "e").fields }}{{ . }}{{ end }}{{ end }}{{ with $v := secret "f" }}{{ end }}`+
		`{{ define "sub" }}{{ secret "g" "x" }}{{ end }}{{ template "sub" (secret "h") }} secret "no"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range "abcdefgh" {
		if !slices.ContainsFunc(refs, func(r Ref) bool { return r.Name == string(want) }) {
			t.Errorf("%c was not found", want)
		}
	}
	if len(refs) != 8 || !slices.Contains(refs, Ref{Certificate, "b"}) {
		t.Errorf("found %v", refs)
	}
	if !slices.Equal(functions, []string{"base64", "certificate", "env", "eq", "secret"}) {
		t.Errorf("functions %v", functions)
	}
}

// What is not written out is refused: names of items, as the file waits for
// them, and of fields, as messages repeat them.
func TestNamesHaveToBeWrittenOut(t *testing.T) {
	for _, text := range []string{`{{ secret .name }}`, `{{ "db" | secret }}`, `{{ secret (printf "%s" "db") }}`, `{{ secret }}`,
		`{{ secret "db" .fields.password }}`, `{{ .fields.password | secret "db" }}`, `{{ secret "db" (secret "db" "password") }}`,
		`{{ secret "db" "a" "b" }}`, `{{ $f := "x" }}{{ (secret "db" $f) | base64 }}`, `{{ if secret "db" .x }}{{ end }}`,
		`{{ certificate "web" "x" }}`, `{{ "x" | certificate "web" }}`, `{{ certificate .name }}`} {
		if _, _, err := find(t, text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

// A template that is named and nowhere defined is found before it runs.
func TestEveryTemplateIsDefined(t *testing.T) {
	if _, _, err := find(t, `{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`); err != nil {
		t.Error(err)
	}
	if _, _, err := find(t, `{{ define "a" }}{{ template "b" }}{{ end }}`); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("a template that is not there: %v", err)
	}
}
