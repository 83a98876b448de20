package socket

import (
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// A secretItem is a published secret with all of its answer rendered that does
// not hold a value and does not depend on the time of the read. There can be
// many, so nothing is kept that can be put together again in no time.
type secretItem struct {
	secret *sinks.Secret
	etag   string
	naming string // "name":...,"version":...
	times  string // ,"fetched_at":...,"rotates_at":...
	binary string // ,"base64_fields":[...]
	fields []field
}

// A field is one field of a secret.
type field struct {
	name   string
	value  secret.Value
	size   int  // of the value
	base64 bool // not UTF-8, so JSON can carry it in base64 only
	plain  bool // as a JSON string it needs no escapes
}

func newSecretItem(s *sinks.Secret) *secretItem {
	it := &secretItem{secret: s, etag: etag(s.Version), fields: make([]field, 0, len(s.Fields))}
	var binary []string
	for _, name := range slices.Sorted(maps.Keys(s.Fields)) {
		f := field{name: name, value: s.Fields[name]}
		f.value.Use(func(v []byte) {
			f.size = len(v)
			if f.base64 = !utf8.Valid(v); f.base64 {
				binary = append(binary, quote(name))
			}
			f.plain = !f.base64 && !slices.ContainsFunc(v, escaped)
		})
		it.fields = append(it.fields, f)
	}
	it.naming = `"name":` + quote(s.Name) + `,"version":` + quote(s.Version)
	it.times = `,"fetched_at":` + quote(stamp(s.FetchedAt)) + `,"fresh_until":` + quote(stamp(s.FreshUntil)) +
		`,"usable_until":` + quote(stamp(s.UsableUntil)) + `,"rotates_at":` + stampOrNull(s.RotatesAt)
	if binary != nil {
		it.binary = `,"base64_fields":[` + strings.Join(binary, ",") + `]`
	}
	return it
}

// appendTo renders the whole answer, or only one field of it.
func (it *secretItem) appendTo(b []byte, only string, now time.Time) []byte {
	b = append(b, '{')
	b = append(b, it.naming...)
	b = append(b, `,"fields":{`...)
	first := true
	for i := range it.fields {
		f := &it.fields[i]
		if only != "" && f.name != only {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendJSON(b, []byte(f.name)), ':')
		b = f.appendTo(b)
	}
	b = append(b, '}')
	b = append(b, it.times...)
	b = append(b, it.binary...)
	b = append(b, `,"stale":`...)
	b = strconv.AppendBool(b, it.secret.Stale(now))
	return append(b, "}\n"...)
}

// appendTo renders the value. One that needs no escapes is opened right where it
// is sent from.
func (f *field) appendTo(b []byte) []byte {
	if f.plain {
		return append(f.value.AppendTo(append(b, '"')), '"')
	}
	f.value.Use(func(v []byte) {
		if !f.base64 {
			b = appendJSON(b, v)
			return
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v)
		b = append(b, '"')
	})
	return b
}

// size is at least what appendTo needs, so that no copy is left behind where a
// buffer has grown.
func (it *secretItem) size() int {
	n := len(it.naming) + len(it.times) + len(it.binary) + 64
	for i := range it.fields {
		f := &it.fields[i]
		n += 6*len(f.name) + 6 + f.rendered()
	}
	return n
}

// rendered is at least the size of the rendered value.
func (f *field) rendered() int {
	switch {
	case f.plain:
		return f.size + 16 // room for the seal's tag, should opening want it
	case f.base64:
		return base64.StdEncoding.EncodedLen(f.size)
	}
	return 6 * f.size
}

func (it *secretItem) field(name string) (secret.Value, bool) {
	for i := range it.fields {
		if it.fields[i].name == name {
			return it.fields[i].value, true
		}
	}
	return secret.Value{}, false
}

// usable reports whether the item may be served at now.
func (it *secretItem) usable(now time.Time) bool { return it != nil && !it.secret.Expired(now) }

// A certificateItem is a published certificate with its answer rendered but for
// the key.
type certificateItem struct {
	cert    *sinks.Certificate
	version string
	etag    []string
	head    string // {"name":...,"not_after":...
	meta    string
}

func newCertificateItem(c *sinks.Certificate) *certificateItem {
	it := &certificateItem{cert: c, version: strconv.Itoa(c.Generation) + "-" + c.Serial}
	it.etag = []string{etag(it.version)}
	it.meta = `"name":` + quote(c.Name) + `,"version":` + quote(it.version) + `,"generation":` + strconv.Itoa(c.Generation) +
		`,"serial":` + quote(c.Serial) + `,"not_before":` + quote(stamp(c.NotBefore)) + `,"not_after":` + quote(stamp(c.NotAfter))
	var leaf, chain []byte
	for i, der := range c.Chain {
		p := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if i == 0 {
			leaf = p
		} else {
			chain = append(chain, p...)
		}
	}
	it.head = `{` + it.meta + `,"certificate":` + quote(string(leaf)) + `,"chain":` + quote(string(chain))
	if c.KeyURI != "" {
		it.head += `,"key_uri":` + quote(c.KeyURI)
	}
	return it
}

func (it *certificateItem) appendTo(b []byte) []byte {
	b = append(b, it.head...)
	it.cert.Key.Use(func(key []byte) {
		if len(key) > 0 {
			b = slices.Grow(b, len(key)*2) // PEM has a line break in 65 bytes
			b = append(b, `,"key":`...)
			b = appendJSON(b, key)
		}
	})
	return append(b, "}\n"...)
}

// etag is a version as an entity tag. Versions are opaque, so they are encoded
// where a tag could not hold them.
func etag(version string) string { return `"` + url.PathEscape(version) + `"` }

// matches reports whether a tag is in the value of an If-None-Match header. The
// bare version is taken as well.
func matches(header, etag, version string) bool {
	if header == "" {
		return false
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == etag || tag == version || tag == "*" {
			return true
		}
	}
	return false
}

func stampOrNull(t time.Time) string {
	if t.IsZero() {
		return "null"
	}
	return quote(stamp(t))
}

func quote(s string) string { return string(appendJSON(nil, []byte(strings.ToValidUTF8(s, "\ufffd")))) }

// escaped reports whether a byte cannot stand for itself in a JSON string.
func escaped(c byte) bool { return c < ' ' || c == '"' || c == '\\' }

// appendJSON appends valid UTF-8 as a JSON string.
func appendJSON(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i, c := range s {
		if !escaped(c) {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
