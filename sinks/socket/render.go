package socket

import (
	"encoding/base64"
	"encoding/pem"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-agent/signet/sinks"
)

// A secretItem is a published secret with what of its answer takes long to find
// out. There can be many, so nothing is kept that can be put together again in no
// time.
type secretItem struct {
	secret *sinks.Secret
	forms  []form // of its fields
}

// A form is how a value is written as a JSON string.
type form byte

const (
	plain   form = iota // as it is
	escaped             // with escapes
	binary              // not UTF-8, so in base64
)

// newSecretItem opens each value once, in a buffer of the server's.
func (s *Server) newSecretItem(sec *sinks.Secret) *secretItem {
	it := &secretItem{secret: sec, forms: make([]form, len(sec.Fields))}
	for i, f := range sec.Fields {
		buf := s.body(f.Value.Room())
		*buf = f.Value.AppendTo(*buf)
		it.forms[i] = formOf(*buf)
		s.wipe(buf)
	}
	return it
}

func formOf(value []byte) form {
	switch {
	case !utf8.Valid(value):
		return binary
	case slices.ContainsFunc(value, special):
		return escaped
	}
	return plain
}

// appendTo renders the whole answer, or only one field of it.
func (it *secretItem) appendTo(b []byte, only string, now time.Time) []byte {
	b = append(it.appendNaming(append(b, '{')), `,"fields":{`...)
	first := true
	for i := range it.forms {
		name := it.secret.Fields[i].Name
		if only != "" && name != only {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = it.appendValue(append(appendJSON(b, []byte(name)), ':'), i)
	}
	b = it.appendTimes(append(b, '}'))
	if slices.Contains(it.forms, binary) {
		b = it.appendBinary(b)
	}
	b = append(b, `,"stale":`...)
	b = strconv.AppendBool(b, it.secret.Stale(now))
	return append(b, "}\n"...)
}

// appendNaming renders "name":...,"version":...
func (it *secretItem) appendNaming(b []byte) []byte {
	b = appendText(append(b, `"name":`...), it.secret.Name)
	return appendText(append(b, `,"version":`...), it.secret.Version)
}

// appendTimes renders ,"fetched_at":...,"rotates_at":...
func (it *secretItem) appendTimes(b []byte) []byte {
	b = appendStamp(append(b, `,"fetched_at":`...), it.secret.FetchedAt)
	b = appendStamp(append(b, `,"fresh_until":`...), it.secret.FreshUntil)
	b = appendStamp(append(b, `,"usable_until":`...), it.secret.UsableUntil)
	b = append(b, `,"rotates_at":`...)
	if it.secret.RotatesAt.IsZero() {
		return append(b, "null"...)
	}
	return appendStamp(b, it.secret.RotatesAt)
}

// appendBinary renders ,"base64_fields":[...]
func (it *secretItem) appendBinary(b []byte) []byte {
	b = append(b, `,"base64_fields":[`...)
	for i, f := range it.forms {
		if f == binary {
			b = append(appendText(b, it.secret.Fields[i].Name), ',')
		}
	}
	b[len(b)-1] = ']'
	return b
}

// appendValue renders a value. One that needs no escapes is opened right where it
// is sent from.
func (it *secretItem) appendValue(b []byte, i int) []byte {
	value := it.secret.Fields[i].Value
	if it.forms[i] == plain {
		return append(value.AppendTo(append(b, '"')), '"')
	}
	value.Use(func(v []byte) {
		if it.forms[i] == escaped {
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
	n := 6*(len(it.secret.Name)+len(it.secret.Version)) + 256
	for i, f := range it.secret.Fields {
		n += 12*len(f.Name) + 16
		switch room := f.Value.Room(); it.forms[i] {
		case plain:
			n += room
		case escaped:
			n += 6 * room
		case binary:
			n += base64.StdEncoding.EncodedLen(room)
		}
	}
	return n
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

// etag is a version as an entity tag.
func etag(version string) string { return string(appendETag(nil, version)) }

// appendETag renders a version as an entity tag. Versions are opaque, so they are
// encoded where a tag could not hold them.
func appendETag(b []byte, version string) []byte {
	return append(append(append(b, '"'), url.PathEscape(version)...), '"')
}

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

// appendStamp renders a time as stamp does.
func appendStamp(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

func quote(s string) string { return string(appendText(nil, s)) }

// appendText appends any text as a JSON string.
func appendText(b []byte, s string) []byte {
	return appendJSON(b, []byte(strings.ToValidUTF8(s, "\ufffd")))
}

// special reports whether a byte cannot stand for itself in a JSON string.
func special(c byte) bool { return c < ' ' || c == '"' || c == '\\' }

// appendJSON appends valid UTF-8 as a JSON string.
func appendJSON(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i, c := range s {
		if !special(c) {
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
