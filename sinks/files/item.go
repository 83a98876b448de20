package files

import (
	"github.com/signet-agent/signet/internal/itemref"
	"github.com/signet-agent/signet/sinks"
)

// A ref names an item.
type ref = itemref.Ref

const (
	kindSecret      = itemref.Secret
	kindCertificate = itemref.Certificate
)

// An item is a secret or a certificate; the zero item is none.
type item struct {
	secret *sinks.Secret
	cert   *sinks.Certificate
}

// items are the items that a target has been given.
type items map[ref]item

func (it item) version() string {
	switch {
	case it.secret != nil:
		return it.secret.Version
	case it.cert != nil:
		return it.cert.Serial
	}
	return ""
}

// of are the items of some entries, each once, in the order of the entries.
func (its items) of(entries []*entry) []Item {
	var out []Item
	seen := map[ref]bool{}
	for _, e := range entries {
		for _, r := range e.needs {
			it, ok := its[r]
			if !ok || seen[r] {
				continue
			}
			seen[r] = true
			if r.Kind == kindSecret {
				out = append(out, Item{Secret: r.Name, Version: it.version()})
			} else {
				out = append(out, Item{Certificate: r.Name, Version: it.version()})
			}
		}
	}
	return out
}

// leaves are those of the certificates of some entries, each once.
func (its items) leaves(entries []*entry) [][]byte {
	var out [][]byte
	seen := map[ref]bool{}
	for _, e := range entries {
		for _, r := range e.needs {
			if c := its[r].cert; c != nil && len(c.Chain) > 0 && !seen[r] {
				seen[r] = true
				out = append(out, c.Chain[0])
			}
		}
	}
	return out
}

func secretRef(name string) ref      { return ref{Kind: kindSecret, Name: name} }
func certificateRef(name string) ref { return ref{Kind: kindCertificate, Name: name} }
