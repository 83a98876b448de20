package files

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/signet-agent/signet/sinks"
)

// functions are what templates can use beside the builtin ones.
var functions = template.FuncMap{
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"json":   func(v any) (string, error) { b, err := marshal(v); return string(b), err },
	"env":    quoteEnv,
}

// render makes the content of the file. Errors name fields, never values.
func (t *target) render(it item) ([]byte, error) {
	switch {
	case t.tmpl != nil:
		return t.execute(it)
	case it.secret != nil:
		return t.renderSecret(it.secret)
	}
	return t.renderCertificate(it.cert)
}

func (t *target) renderSecret(s *sinks.Secret) ([]byte, error) {
	names := slices.Sorted(maps.Keys(s.Fields))
	if t.Field != "" {
		if _, ok := s.Fields[t.Field]; !ok {
			return nil, fmt.Errorf("secret %q has no field %q; it has %s", s.Name, t.Field, strings.Join(names, ", "))
		}
		names = []string{t.Field}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("secret %q has no fields", s.Name)
	}
	switch t.Format {
	case "json":
		m := map[string]string{}
		for _, name := range names {
			v := s.Fields[name].Reveal()
			if !utf8.Valid(v) {
				return nil, fmt.Errorf("field %q is not text, which JSON needs; use raw", name)
			}
			m[name] = string(v)
		}
		return marshal(m)
	case "env":
		var b []byte
		for _, name := range names {
			q, err := quoteEnv(string(s.Fields[name].Reveal()))
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", name, err)
			}
			b = append(b, variable(s.Name+"_"+name)+"="+q+"\n"...)
		}
		return b, nil
	}
	if len(names) != 1 {
		return nil, fmt.Errorf("secret %q has several fields (%s); say which with field", s.Name, strings.Join(names, ", "))
	}
	v := s.Fields[names[0]].Reveal()
	if len(v) == 0 {
		return nil, fmt.Errorf("field %q is empty", names[0])
	}
	return v, nil
}

func (t *target) renderCertificate(c *sinks.Certificate) ([]byte, error) {
	if len(c.Chain) == 0 {
		return nil, errors.New("there is no certificate in the chain")
	}
	chain := pemChain(c.Chain)
	if t.Format == "pem-chain" {
		return chain, nil
	}
	key, err := checkedKey(c)
	if err != nil {
		return nil, err
	}
	switch t.Format {
	case "pem-key":
		return key, nil
	case "pem-bundle-key-first":
		return slices.Concat(key, chain), nil
	}
	return slices.Concat(chain, key), nil
}

func pemChain(ders [][]byte) []byte {
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return b
}

// checkedKey is the private key in PEM, once it is seen to be that of the leaf: a
// consumer that loads a mismatched pair goes down.
func checkedKey(c *sinks.Certificate) ([]byte, error) {
	text := c.Key.Reveal()
	if len(text) == 0 {
		return nil, fmt.Errorf("the key of certificate %q is in the HSM and cannot be written; use pem-chain", c.Name)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key is not PKCS#8")
	}
	leaf, err := x509.ParseCertificate(c.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("the certificate is malformed: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, errors.New("certificate and private key do not belong together")
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(slices.Clone(text), '\n')
	}
	return text, nil
}

// execute runs the template of a target.
func (t *target) execute(it item) ([]byte, error) {
	data := map[string]any{}
	if s := it.secret; s != nil {
		fields := map[string]string{}
		for name, v := range s.Fields {
			fields[name] = string(v.Reveal())
		}
		data["name"], data["version"], data["fields"] = s.Name, s.Version, fields
		data["fetched_at"], data["rotates_at"] = stamp(s.FetchedAt), stamp(s.RotatesAt)
	}
	if c := it.cert; c != nil {
		if len(c.Chain) == 0 {
			return nil, errors.New("there is no certificate in the chain")
		}
		data["name"], data["generation"], data["serial"] = c.Name, c.Generation, c.Serial
		data["certificate"], data["chain"] = string(pemChain(c.Chain[:1])), string(pemChain(c.Chain))
		data["key"], data["key_uri"] = "", c.KeyURI
		data["not_before"], data["not_after"] = stamp(c.NotBefore), stamp(c.NotAfter)
		if c.KeyURI == "" {
			key, err := checkedKey(c)
			if err != nil {
				return nil, err
			}
			data["key"] = string(key)
		}
	}
	var b bytes.Buffer
	if err := t.tmpl.Execute(&b, data); err != nil {
		return nil, err // names fields and places, no values
	}
	if b.Len() == 0 {
		return nil, errors.New("the template gives nothing")
	}
	return b.Bytes(), nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// marshal is json.Marshal without escaping what only HTML minds, with a newline.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, errors.New("not representable in JSON")
	}
	return b.Bytes(), nil
}

// variable is a name as the name of an environment variable: DB_PASSWORD.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// quoteEnv quotes a value so that a shell and EnvironmentFile= of systemd read
// the same.
func quoteEnv(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("a NUL byte cannot be in an environment")
	}
	if !utf8.ValidString(s) {
		return "", errors.New("not text, which systemd wants; use raw")
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_@%+=:,./-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s, nil
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if strings.ContainsRune("\"\\$`", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String(), nil
}
