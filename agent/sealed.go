package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// sealedMeta is what of a held is sealed beside its values: its bounds are inside
// the seal, so that nobody can lengthen a life by editing the file.
//
// A sealed entry is the length of the JSON of this, the JSON, and the bytes of
// the values one after the other. They stay out of the JSON because that package
// keeps its buffers.
type sealedMeta struct {
	Version   string        `json:"version"`
	Count     uint64        `json:"count"`
	Fields    []sealedField `json:"fields"`
	FetchedAt time.Time     `json:"fetched_at"`
	Expires   time.Time     `json:"expires,omitzero"`
	TTL       time.Duration `json:"ttl,omitempty"`
}

type sealedField struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

func sealedAs(name string) string { return "secret " + strconv.Quote(name) }

func (h *held) marshal(s *sealer, name string) ([]byte, error) {
	m := sealedMeta{Version: h.Version, Count: h.Count, FetchedAt: h.FetchedAt, Expires: h.Expires, TTL: h.TTL}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(h.Fields)) {
		h.Fields[k].Use(func(b []byte) {
			m.Fields = append(m.Fields, sealedField{k, len(b)})
			size += len(b)
		})
	}
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", name, err)
	}
	plain := make([]byte, 0, binary.MaxVarintLen64+len(meta)+size)
	defer func() { clear(plain[:cap(plain)]) }()
	plain = append(binary.AppendUvarint(plain, uint64(len(meta))), meta...)
	for _, f := range m.Fields {
		plain = h.Fields[f.Name].AppendTo(plain)
	}
	return s.seal(sealedAs(name), plain), nil
}

func unmarshalHeld(s *sealer, name string, blob []byte) (*held, error) {
	plain, err := s.open(sealedAs(name), blob)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	m, values, err := decodeSealed(plain)
	if err != nil {
		return nil, fmt.Errorf("sealed secret %q: %w", name, err)
	}
	h := &held{Version: m.Version, Count: m.Count, FetchedAt: m.FetchedAt, Expires: m.Expires, TTL: m.TTL,
		Fields: make(map[string]secret.Value, len(values))}
	for i, f := range m.Fields {
		h.Fields[f.Name] = s.box.Keep(secret.New(values[i]), sealedAs(name))
	}
	return h, nil
}

var errSealedForm = errors.New("not as this version writes it")

// decodeSealed takes a sealed entry apart. The values are parts of plain.
func decodeSealed(plain []byte) (m sealedMeta, values [][]byte, err error) {
	n, used := binary.Uvarint(plain)
	if used <= 0 || n > uint64(len(plain)-used) {
		return m, nil, errSealedForm
	}
	rest := plain[used+int(n):]
	if err := json.Unmarshal(plain[used:used+int(n)], &m); err != nil {
		return m, nil, errSealedForm
	}
	for i, f := range m.Fields {
		again := slices.ContainsFunc(m.Fields[:i], func(g sealedField) bool { return g.Name == f.Name })
		if again || f.Size < 0 || f.Size > len(rest) {
			return m, nil, errSealedForm
		}
		values = append(values, rest[:f.Size:f.Size])
		rest = rest[f.Size:]
	}
	if len(rest) > 0 {
		return m, nil, errSealedForm
	}
	return m, values, nil
}
