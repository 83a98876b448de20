package config

import (
	"iter"

	"github.com/signet-agent/signet/internal/tokenuri"
)

// Tokens yields each token with its place.
func (c *Config) Tokens(r *Report) iter.Seq2[string, HSM] {
	return func(yield func(string, HSM) bool) {
		for i, h := range c.HSM {
			at := "hsm"
			if r.k.has("hsm[0]") {
				at = index(at, i)
			}
			if !yield(at, h) {
				return
			}
		}
	}
}

// SecretFiles yields each file that a secret is read from, with the place that
// names it.
func (c *Config) SecretFiles(r *Report) iter.Seq2[string, string] {
	return func(yield func(at, file string) bool) {
		more := true
		name := func(at, file string) {
			if more && file != "" {
				more = yield(at, file)
			}
		}
		source := func(at string, s Source) { name(at+".file", s.File) }
		for at, h := range c.Tokens(r) {
			u, _ := tokenuri.Parse(h.URI) // what is wrong with it is a fault
			name(at+".uri", u.PINFile)
			source(at+".pin", h.PIN)
		}
		for name := range sortedKeys(c.Upstreams) {
			at, u := join("upstreams", name), c.Upstreams[name]
			a := u.Auth
			source(at+".decryption_key", u.DecryptionKey)
			source(at+".auth.client_secret", a.ClientSecret)
			source(at+".auth.password", a.Password)
			source(at+".auth.refresh_token", a.RefreshToken)
			source(at+".auth.consumer_secret", a.ConsumerSecret)
			source(at+".auth.token", a.Token.Source)
			source(at+".auth.token_secret", a.TokenSecret)
		}
		for i, f := range c.Files {
			at := index("files", i)
			source(at+".password", f.Password)
			source(at+".reload.redis.password", f.Reload.Redis.Password)
			for name := range sortedKeys(f.Entries) {
				source(join(at+".entries", name)+".password", f.Entries[name].Password)
			}
		}
	}
}
