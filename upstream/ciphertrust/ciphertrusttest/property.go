package ciphertrusttest

import (
	"fmt"
	"strconv"
	"time"
)

// maxLifetime is the property that caps the life of refresh tokens.
const maxLifetime = "MAXIMUM_REFRESH_TOKEN_LIFETIME"

// A property is one of the system's, with its default.
type property struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	Description string `json:"description"`
}

// properties are those that there are, with their defaults.
var properties = []property{
	{"ALLOW_UNKNOWN_FIELDS", "false", "Whether requests may have fields that are not known"},
	{"CERT_REV_CHECK_TIMEOUT", "5", "How long a revocation check may take, in seconds"},
	{"CLUSTER_CERT_AUTO_RENEW_THRESHOLD", "30", "How long before its end a certificate of the cluster is renewed, in days"},
	{"DISABLE_TLS_SESSION_RESUMPTION", "false", "Whether TLS sessions cannot be resumed"},
	{"ENABLE_CERT_REV_CHECK", "true", "Whether a certificate that logs somebody in is checked for revocation"},
	{"ENABLE_KEY_CACHE", "false", "Whether keys are cached"},
	{"KEY_CACHE_EXPIRES_DURATION", "2", "How long keys are cached"},
	{maxLifetime, "", "The longest life of a refresh token; empty is no limit"},
	{"PASSWORD_HASH_ITERATIONS", "10000", "How often a password is hashed"},
	{"UI_IDLE_SESSION_TIMEOUT", "10m", "After how long an idle session of the web console ends"},
}

// property is the value of a property.
func (s *Server) property(name string) string {
	if v, ok := s.state.Properties[name]; ok {
		return v
	}
	for _, p := range properties {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// lifetime reads a value of MAXIMUM_REFRESH_TOKEN_LIFETIME; "" is 0, no limit.
func lifetime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	unit, digits := time.Minute, text
	switch text[len(text)-1] {
	case 'm':
		digits = text[:len(text)-1]
	case 'h':
		unit, digits = time.Hour, text[:len(text)-1]
	case 'd':
		unit, digits = 24*time.Hour, text[:len(text)-1]
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("lifetime %q: want something like 90m, 12h, 30d, or minutes", text)
	}
	return time.Duration(n) * unit, nil
}

func (s *Server) showProperty(p property) any {
	p.Value = s.property(p.Name)
	return p
}

func (s *Server) listProperties(c *call) (any, *refusal) {
	return list(c, properties, map[string]filter[property]{
		"name": like(func(p property) string { return p.Name }),
	}, s.showProperty)
}

// pathProperty finds the property that the path names.
func pathProperty(c *call) (property, *refusal) {
	for _, p := range properties {
		if p.Name == c.args["property"] {
			return p, nil
		}
	}
	return property{}, notFound()
}

func (s *Server) getProperty(c *call) (any, *refusal) {
	p, no := pathProperty(c)
	if no != nil {
		return nil, no
	}
	return s.showProperty(p), nil
}

func (s *Server) patchProperty(c *call) (any, *refusal) {
	p, no := pathProperty(c)
	if no != nil {
		return nil, no
	}
	var in struct {
		Value *string `json:"value"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Value == nil {
		return nil, invalid("value is required")
	}
	if no := p.check(*in.Value); no != nil {
		return nil, no
	}
	s.state.Properties[p.Name] = *in.Value
	c.changed = true
	return s.showProperty(p), nil
}

// check refuses a value of another kind than the default's.
func (p property) check(value string) *refusal {
	var err error
	switch p.Value {
	case "true", "false":
		_, err = strconv.ParseBool(value)
	case "", "10m":
		_, err = lifetime(value)
	default:
		_, err = strconv.Atoi(value)
	}
	if err != nil {
		return invalid(fmt.Sprintf("value: %q is not allowed here", value))
	}
	return nil
}

func (s *Server) resetProperty(c *call) (any, *refusal) {
	p, no := pathProperty(c)
	if no != nil {
		return nil, no
	}
	delete(s.state.Properties, p.Name)
	c.changed = true
	return s.showProperty(p), nil
}
