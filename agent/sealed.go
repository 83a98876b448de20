package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// A sealed entry is what of a held outlives a restart, its bounds among it, so
// that nobody can lengthen a life by editing the file: this head, and behind it
// the bytes of the values one after the other. The same blob lies in the store and
// in memory, where values are opened from it at each use.
type sealedHead struct {
	Version   string
	FetchedAt time.Time
	Expires   time.Time
	TTL       time.Duration
	Fields    []sealedField // sorted by name
}

type sealedField struct {
	Name string
	Size int
}

// sealedForm begins each entry.
const sealedForm = 3

// A binding is what a sealed entry is of, which is not in it but must be known to
// open it: a value is never taken for that of another item. It is a digest, as
// each entry in memory has its own.
type binding [16]byte

// bindingOf binds to the name of a secret and to what the configuration says it
// is: an item of an upstream. Where the upstream is reached may change.
func bindingOf(name string, c config.Secret, u config.Upstream) binding {
	item := []string{c.Upstream, "credential", c.Credential, "info", c.Info, "secret", c.Secret}
	if c.Application {
		item = []string{c.Upstream, "application of", u.Auth.ClientID}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "secret %q is %q", name, item))
	return binding(sum[:len(binding{})])
}

// seal is the entry of h, and h with its values in there.
func (h *held) seal(s *sealer, of binding) (blob []byte, sealed *held) {
	head := sealedHead{Version: h.Version, FetchedAt: h.FetchedAt, Expires: h.Expires, TTL: h.TTL}
	room := 0
	for _, f := range h.Fields {
		f.Value.Use(func(b []byte) { head.Fields = append(head.Fields, sealedField{f.Name, len(b)}) })
		room += f.Value.Room()
	}
	begin := head.append(nil)
	plain := append(make([]byte, 0, len(begin)+room), begin...)
	defer func() { clear(plain[:cap(plain)]) }()
	for _, f := range h.Fields {
		plain = f.Value.AppendTo(plain)
	}
	blob = s.box.Seal(nil, plain, of[:])
	n := *h
	n.Fields = head.values(s.box.Keep(blob, of[:]), len(begin))
	return blob, &n
}

// unseal takes up the entry of a secret. It opens it in buf, which it wipes and
// returns for the next.
func unseal(s *sealer, name string, of binding, blob, buf []byte) (*held, []byte, error) {
	plain, err := s.box.Open(buf[:0], blob, of[:])
	if err != nil {
		return nil, buf, fmt.Errorf("sealed secret %q: %w", name, err)
	}
	defer clear(plain)
	head, size, err := decodeSealed(plain)
	if err != nil {
		return nil, plain, fmt.Errorf("sealed secret %q: %w", name, err)
	}
	h := &held{Expires: head.Expires, TTL: head.TTL,
		Secret: sinks.Secret{Name: name, Version: head.Version, FetchedAt: head.FetchedAt, Fields: head.values(s.box.Keep(blob, of[:]), size)}}
	return h, plain, nil
}

// values are the values in an entry; the first of them is at from.
func (h *sealedHead) values(k secret.Kept, from int) sinks.Fields {
	fields := make(sinks.Fields, len(h.Fields))
	for i, f := range h.Fields {
		fields[i] = sinks.Field{Name: f.Name, Value: k.Part(from, f.Size)}
		from += f.Size
	}
	return fields
}

func (h *sealedHead) append(b []byte) []byte {
	b = appendText(append(b, sealedForm), h.Version)
	b = appendTime(b, h.FetchedAt)
	b = appendTime(b, h.Expires)
	b = binary.AppendVarint(b, int64(h.TTL))
	b = binary.AppendUvarint(b, uint64(len(h.Fields)))
	for _, f := range h.Fields {
		b = binary.AppendUvarint(appendText(b, f.Name), uint64(f.Size))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

var errSealedForm = errors.New("not as this version writes it")

// decodeSealed reads the head of an entry and says how long that is. The values
// are the rest, to the last byte.
func decodeSealed(plain []byte) (h sealedHead, size int, err error) {
	r := sealedReader{rest: plain}
	r.bad = r.uvarint() != sealedForm
	h.Version = r.text()
	h.FetchedAt, h.Expires, h.TTL = r.time(), r.time(), time.Duration(r.varint())
	left := 0
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		f := sealedField{r.text(), int(r.uvarint())}
		last := len(h.Fields) - 1
		r.bad = r.bad || f.Size < 0 || f.Size > len(plain) || last >= 0 && f.Name <= h.Fields[last].Name
		h.Fields = append(h.Fields, f)
		left += f.Size
	}
	if r.bad || left != len(r.rest) {
		return h, 0, errSealedForm
	}
	return h, len(plain) - left, nil
}

// A sealedReader reads what sealedHead.append writes, and remembers that something
// was not so.
type sealedReader struct {
	rest []byte
	bad  bool
}

func (r *sealedReader) uvarint() uint64 {
	n, used := binary.Uvarint(r.rest)
	r.skip(cmp.Or(used, -1)) // 0 is cut off
	return n
}

func (r *sealedReader) varint() int64 {
	n, used := binary.Varint(r.rest)
	r.skip(cmp.Or(used, -1))
	return n
}

func (r *sealedReader) text() string {
	n := int(min(r.uvarint(), uint64(len(r.rest))+1))
	text := r.rest
	if r.skip(n); r.bad {
		return ""
	}
	return string(text[:n])
}

func (r *sealedReader) time() time.Time {
	return time.Unix(r.varint(), int64(r.uvarint()))
}

// skip goes on after n bytes, if there are so many.
func (r *sealedReader) skip(n int) {
	if n < 0 || n > len(r.rest) {
		r.bad = true
		return
	}
	r.rest = r.rest[n:]
}
