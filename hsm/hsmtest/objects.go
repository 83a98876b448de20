package hsmtest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// The kinds of attributes in the files of SoftHSM.
const (
	attrBool  = 1
	attrUlong = 2
	attrBytes = 3
)

// WriteObject puts an object on the tokens that only looks as it is told to, as
// no call of PKCS#11 would make it: attributes are bool, uint or []byte. Programs
// that have the token open already do not see it.
func (s *SoftHSM) WriteObject(attributes map[uint]any) {
	s.t.Helper()
	word := binary.BigEndian.AppendUint64
	file := word(nil, 1)
	for _, typ := range slices.Sorted(maps.Keys(attributes)) {
		file = word(file, uint64(typ))
		switch v := attributes[typ].(type) {
		case bool:
			file = append(word(file, attrBool), map[bool]byte{true: 0xff}[v])
		case uint:
			file = word(word(file, attrUlong), uint64(v))
		case []byte:
			file = append(word(word(file, attrBytes), uint64(len(v))), v...)
		default:
			s.t.Fatalf("attribute %#x is a %T", typ, v)
		}
	}
	tokens, err := filepath.Glob(filepath.Join(s.Tokens, "*"))
	if err != nil || len(tokens) == 0 {
		s.t.Fatalf("no tokens: %v", err)
	}
	for _, token := range tokens {
		all, _ := filepath.Glob(filepath.Join(token, "*.object"))
		name := fmt.Sprintf("00000000-0000-0000-0000-%012d", len(all))
		for suffix, content := range map[string][]byte{".object": file, ".lock": nil} {
			if err := os.WriteFile(filepath.Join(token, name+suffix), content, 0o600); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}
