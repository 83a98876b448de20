package access

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestPatternMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, method, path string
		want                  bool
	}{
		{"GET /iso/pam/credential/*", "GET", "/iso/pam/credential/5", true},
		{"GET /iso/pam/credential/*", "POST", "/iso/pam/credential/5", false},
		{"GET /iso/pam/credential/*", "GET", "/iso/pam/credential", false},
		{"GET /iso/pam/credential/*", "GET", "/iso/pam/credential/", false}, // would list all
		{"GET /iso/pam/credential/*", "GET", "/iso/pam/credential/5/x", false},
		{"GET /iso/pam/credential/*", "GET", "/iso/pam/credentials/5", false},
		{"GET /a/*/c", "GET", "/a/b/c", true},
		{"GET /a/*/c", "GET", "/a/b/b/c", false},
		{"GET /a/v*/c", "GET", "/a/v1/c", true},
		{"GET /a/v*/c", "GET", "/a/v/c", true},
		{"GET /a/v*/c", "GET", "/a/v/1/c", false},
		{"GET /a/*b*", "GET", "/a/xbxbx", true},
		{"GET /a/*b*", "GET", "/a/xx", false},
		{"GET /api/**", "GET", "/api/", true},
		{"GET /api/**", "GET", "/api/a/b/c", true},
		{"GET /api/**", "GET", "/api", false},
		{"GET /api/**", "GET", "/apis/a", false},
		{"GET /api/**/users/*", "GET", "/api/v1/x/users/7", true},
		{"GET /api/**/users/*", "GET", "/api/v1/x/users/7/keys", false},
		{"* /x", "DELETE", "/x", true},
		{"GET /", "GET", "/", true},
		{"GET /x/", "GET", "/x", false},
	} {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tt.method, tt.path); got != tt.want {
			t.Errorf("%q on %s %s: %v, want %v", tt.pattern, tt.method, tt.path, got, tt.want)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, s := range []string{"", "GET", "GET ", "/x", "get /x", "GET x", "GET /a b", "GET /a?b", "GET /a%2fb",
		"GET /a/../b", "GET /a//b", "GET /a/***", "GET  /x", "GET /" + strings.Repeat("x", 1000)} {
		if p, err := ParsePattern(s); err == nil {
			t.Errorf("%q was taken as %q", s, p)
		}
	}
}

// A caller chooses the path, so no path may make matching slow.
func TestPatternMatchIsNotSlow(t *testing.T) {
	p, err := ParsePattern("GET /**a**a**a**a**a**a**b")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if p.Match("GET", "/"+strings.Repeat("a", 16<<10)) {
		t.Error("matched")
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func TestCleanPath(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"/", "/"},
		{"/a%20b", "/a b"},
		{"/a;v=1/b", "/a;v=1/b"},
		{"/a...b/..c", "/a...b/..c"},
	} {
		if got, err := CleanPath(tt.in); got != tt.want || err != nil {
			t.Errorf("%q: %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "a", "//", "//a", "/a//b", "/a//", "/../a", "/a/..", "/a/./b", "/a/%2e%2e/b", "/a/%2E./b", "/a%2fb", "/a%2Fb",
		"/a%5cb", "/a\\b", "/a%00", "/a%0ab", "/a%zz", "/a%252e%252e", "/a%252fb", "/..;x/a", "/a/;x/b", "/%2f"} {
		if got, err := CleanPath(in); err == nil {
			t.Errorf("%q was taken as %q", in, got)
		}
	}
}

// FuzzCleanPath holds that a path which passes has one reading only, so that
// what policy was asked about is what the upstream sees.
func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/a%2fb", "/..;/x", "/a%252e", "/%C3%A4", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := CleanPath(s)
		if err != nil {
			return
		}
		for seg := range strings.SplitSeq(strings.TrimSuffix(path[1:], "/"), "/") {
			name, _, _ := strings.Cut(seg, ";")
			if name == ".." || name == "." || name == "" && path != "/" {
				t.Fatalf("%q passed as %q", s, path)
			}
		}
		// Encoded anew and read again it is the same.
		again, err := CleanPath((&url.URL{Path: path}).EscapedPath())
		if err != nil || again != path {
			t.Fatalf("%q passed as %q, then %q, %v", s, path, again, err)
		}
	})
}

// FuzzPattern holds that nothing panics, and that a pattern without stars
// matches itself and nothing else.
func FuzzPattern(f *testing.F) {
	f.Add("GET /a/*/b/**", "/a/x/b/c/d")
	f.Add("GET /a/b", "/a/b")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := ParsePattern(pattern)
		if err != nil {
			return
		}
		got := p.Match("GET", path)
		if !strings.Contains(pattern, "*") && p.method == "GET" && got != (path == p.path) {
			t.Fatalf("%q on %q: %v", pattern, path, got)
		}
	})
}
