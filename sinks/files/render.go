package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/signet-agent/signet/sinks"
)

// render makes the content of the file. Errors name fields, never values.
func (e *entry) render(its items) ([]byte, error) {
	switch {
	case e.tmpl != nil:
		return e.execute(its)
	case e.Secret != "":
		return e.renderSecret(its[secretRef(e.Secret)].secret)
	}
	return e.renderCertificate(its[certificateRef(e.Certificate)].cert)
}

func (e *entry) renderSecret(s *sinks.Secret) ([]byte, error) {
	fields := s.Fields
	if e.Field != "" {
		v, ok := s.Fields.Get(e.Field)
		if !ok {
			return nil, noField(s, e.Field)
		}
		fields = sinks.Fields{{Name: e.Field, Value: v}}
	}
	if len(fields) == 0 {
		return nil, fmt.Errorf("secret %q has no fields", s.Name)
	}
	switch e.Format {
	case "json":
		return fields.JSON()
	case "env":
		var b []byte
		from := map[string]string{}
		for _, f := range fields {
			name := variable(s.Name + "_" + f.Name)
			if other, taken := from[name]; taken {
				return nil, fmt.Errorf("fields %q and %q would both be %s", other, f.Name, name)
			}
			from[name] = f.Name
			q, err := quoteEnv(string(f.Value.Reveal()))
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", f.Name, err)
			}
			b = append(b, name+"="+q+"\n"...)
		}
		return b, nil
	}
	if len(fields) != 1 {
		return nil, fmt.Errorf("secret %q has several fields (%s); say which with field", s.Name, strings.Join(fields.Names(), ", "))
	}
	v := fields[0].Value.Reveal()
	if len(v) == 0 {
		return nil, fmt.Errorf("field %q is empty", fields[0].Name)
	}
	return v, nil
}

func (e *entry) renderCertificate(c *sinks.Certificate) ([]byte, error) {
	if len(c.Chain) == 0 {
		return nil, errors.New("there is no certificate in the chain")
	}
	chain := sinks.PEM(c.Chain)
	if e.Format == "pem-chain" {
		return chain, nil
	}
	key, err := c.KeyPEM()
	if err != nil {
		return nil, err
	}
	switch e.Format {
	case "pem-key":
		return key, nil
	case "pkcs12":
		return e.renderPKCS12(c)
	case "pem-bundle-key-first":
		return slices.Concat(key, chain), nil
	}
	return slices.Concat(chain, key), nil
}

func noField(s *sinks.Secret, field string) error {
	return fmt.Errorf("secret %q has no field %q; it has %s", s.Name, field, strings.Join(s.Fields.Names(), ", "))
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

// variable is a name as the name of an environment variable: DB_PASSWORD. A shell
// takes none that begins with a digit, so that gets an underscore before it.
func variable(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
	if name[0] >= '0' && name[0] <= '9' {
		return "_" + name
	}
	return name
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
