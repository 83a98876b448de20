package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestPieces holds that a file means the same, down to the place of each fault,
// whether it is given to the library whole or cut wherever it can be.
func TestPieces(t *testing.T) {
	for name, text := range allFiles(t) {
		t.Run(name, func(t *testing.T) {
			for _, run := range []int{1, 2, 100} {
				sameInPieces(t, text, run)
			}
		})
	}
	if n := len(pieces(long(250), 100)); n != 3 {
		t.Errorf("a section of 250 is in %d pieces", n)
	}
}

// FuzzPieces is TestPieces for any file.
func FuzzPieces(f *testing.F) {
	for _, text := range allFiles(f) {
		f.Add(text)
	}
	f.Add("a:\n  b: \"\n  c: \"\n  d: [\n  e: ]\n  f: |\n  g: x\n")
	f.Add("|\na:\n  b: c\n  d: e\n")
	f.Fuzz(func(t *testing.T, text string) { sameInPieces(t, text, 1) })
}

// allFiles are the configurations that there are here, good and bad.
func allFiles(t testing.TB) map[string]string {
	t.Helper()
	texts := map[string]string{"long": long(250)}
	for _, pattern := range []string{"testdata/*.yaml", "testdata/bad/*.yaml", "../../docs/signet.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files, %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts[file] = string(data)
		}
	}
	return texts
}

func sameInPieces(t *testing.T, text string, run int) {
	t.Helper()
	read := func(run int) (c Config, d *decoder) {
		d = newDecoder("f")
		d.run = run
		d.into([]byte(text), &c)
		return c, d
	}
	whole, want := read(len(text) + 1)
	cut, got := read(run)
	if !reflect.DeepEqual(cut, whole) || !reflect.DeepEqual(got.faults, want.faults) || !reflect.DeepEqual(got.places, want.places) {
		t.Errorf("cut after %d: faults\n%v\nand whole\n%v", run, got.faults, want.faults)
	}
}

// long is a configuration of n secrets, with what may be between them.
func long(n int) string {
	var b strings.Builder
	b.WriteString(minimal + "upstreams:  # one\n  cm: {type: ciphertrust, url: \"https://c.example\", auth: {grant: password}}\nsecrets: # many\n")
	for i := range n {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "\n  # %d\n  s%d: &a%d {upstream: cm, secret: x,\n    ttl: 3s}\n", i, i, i)
		case 1:
			fmt.Fprintf(&b, "  s%d: *a0\n", i)
		case 2:
			fmt.Fprintf(&b, "  s%d:\n    upstream: cm # here\n    secret: |\n      s1:\n    ttl: 1h\n", i)
		case 3:
			fmt.Fprintf(&b, "  \"s%d\": {upstream: cm, secret: \"a\n    s2: b\", tll: 3s}\n", i)
		case 4:
			fmt.Fprintf(&b, "  s%d: {upstream: cm, secret: x}\n  s%d: {}\n", i, i-2)
		}
	}
	return b.String() + "files:\n- {path: /x, secret: s1, field: value}\npolicy: []\n"
}

// TestLongSection holds that a fault far down in a long section is told with its
// place.
func TestLongSection(t *testing.T) {
	text := minimal + "upstreams: {cm: {type: ciphertrust, url: \"https://c.example\", auth: {grant: password}}}\nsecrets:\n"
	for i := range 2 * maxRun {
		text += fmt.Sprintf("  s%d: {upstream: cm, secret: x}\n", i)
	}
	if c := mustParse(t, text); len(c.Secrets) != 2*maxRun {
		t.Errorf("%d secrets", len(c.Secrets))
	}
	for last, want := range map[string]string{
		"  s201: {upstream: no, secret: x}\n":   "signet.yaml:204:20: secrets.s201.upstream: ",
		"  s3: {upstream: cm, secret: x}\n":     "signet.yaml:204:3: secrets.s3: is there twice",
		"  s201: [}\n":                          "signet.yaml:204:",
		"---\nsecrets: {}\n":                    "signet.yaml:205:",
		"hsm: {}\n":                             "signet.yaml:204:1: hsm: is there twice",
		"  s201: {upstream: cm, secret: *x }\n": "signet.yaml:204:",
	} {
		if _, err := Parse("signet.yaml", []byte(text+last)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", last, err, want)
		}
	}
}
