package config

import (
	"strings"
	"testing"

	"github.com/signet-agent/signet/internal/access"
)

// What a pattern is, access says: what it refuses, a check refuses, and nothing
// else.
func TestPatternsAreWhatAccessTakes(t *testing.T) {
	for _, pattern := range []string{
		"GET /api/*", "* /", "GET /a/**/b", "GET /a;x", "GET /" + strings.Repeat("x", 510), "GET /ü",
		"GET /a***", "GET /;x", "GET /" + strings.Repeat("x", 511), "GET /a\tb", "GET /a/..;x", "TRACE /x", "get /x", "GET x", "GET", "",
	} {
		text := minimal + "upstreams: {cm: {type: senhasegura, url: \"https://v.example\", auth: {grant: url_token, consumer_key: k, token: {file: /t}}}}\n" +
			"policy:\n- callers: {users: [root]}\n  allow:\n    proxy:\n      cm: [\"" + strings.ReplaceAll(pattern, "\t", `\t`) + "\"]\n"
		_, want := access.ParsePattern(pattern)
		_, err := Parse("signet.yaml", []byte(text))
		at := err != nil && strings.Contains(err.Error(), "policy[0].allow.proxy.cm[0]: ")
		if at != (want != nil) || err != nil && !at {
			t.Errorf("%.40q: the check says %v, access %v", pattern, err, want)
		}
	}
}
