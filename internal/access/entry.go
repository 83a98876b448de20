package access

import (
	"encoding/json"
	"strconv"
	"time"
)

// An Entry is one line of the audit. It has no place for a value.
type Entry struct {
	ID       string // of the request
	Time     time.Time
	Peer     *Peer // nil for the agent itself
	Kind     Kind  // with Name, the resource: "secret/db"; Admin without a Name is none
	Name     string
	Event    string // what was done: "secret.read", "key.sign", "audit.opened"
	Method   string // HTTP method, and for a proxy the path
	Path     string
	Status   int    // HTTP status
	Outcome  string // "ok" or the code of the error
	Error    string // why not
	By       string // the rule that allowed it
	Duration time.Duration
	Count    int // of what the event counts: lost lines, cut-off bytes
	// Hash, Signature and KeyName are for lines that sign the chain.
	Hash, Signature, KeyName string
}

// appendTo formats an entry up to its last member, which the writer knows.
func (e *Entry) appendTo(b []byte) []byte {
	b = append(b, '{')
	if e.ID != "" {
		b = appendMember(b, `"id":`, e.ID)
	}
	b = append(b, `"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `",`...)
	if p := e.Peer; p != nil {
		b = p.appendTo(b)
	}
	if e.Name != "" || e.Kind != Admin {
		b = appendResource(append(b, `"resource":`...), e.Kind.String(), e.Name)
	}
	b = appendMember(b, `"event":`, e.Event)
	if e.Method != "" {
		b = appendMember(b, `"method":`, e.Method)
	}
	if e.Path != "" {
		b = appendMember(b, `"path":`, e.Path)
	}
	if e.Status != 0 {
		b = append(b, `"status":`...)
		b = strconv.AppendInt(b, int64(e.Status), 10)
		b = append(b, ',')
	}
	b = appendMember(b, `"outcome":`, e.Outcome)
	b = e.appendRest(b)
	return append(b, `"prev":"`+"\n"...)
}

func (e *Entry) appendRest(b []byte) []byte {
	for _, m := range [...]struct{ key, value string }{
		{`"error":`, e.Error}, {`"by":`, e.By}, {`"hash":`, e.Hash}, {`"signature":`, e.Signature}, {`"key":`, e.KeyName},
	} {
		if m.value != "" {
			b = appendMember(b, m.key, m.value)
		}
	}
	if e.Peer != nil {
		b = append(b, `"duration":`...) // seconds
		b = strconv.AppendFloat(b, float64(e.Duration.Microseconds())/1e6, 'f', -1, 64)
		b = append(b, ',')
	}
	if e.Count != 0 {
		b = append(b, `"count":`...)
		b = strconv.AppendInt(b, int64(e.Count), 10)
		b = append(b, ',')
	}
	return b
}

func (p *Peer) appendTo(b []byte) []byte {
	if p.text != nil {
		return append(b, p.text...)
	}
	b = append(b, `"caller":{"uid":`...)
	b = strconv.AppendUint(b, uint64(p.UID), 10)
	b = append(b, `,"gid":`...)
	b = strconv.AppendUint(b, uint64(p.GID), 10)
	b = append(b, `,"pid":`...)
	b = strconv.AppendInt(b, int64(p.PID), 10)
	if p.Unit != "" {
		b = append(b, `,"unit":`...)
		b = appendString(b, p.Unit)
	}
	b = append(b, `,"how":"`...)
	b = append(b, p.How...)
	return append(b, `"},`...)
}

func appendResource(b []byte, kind, name string) []byte {
	if !plain(name) {
		return append(appendString(b, kind+"/"+name), ',')
	}
	b = append(append(b, '"'), kind...)
	b = append(append(b, '/'), name...)
	return append(b, `",`...)
}

func appendMember(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = appendString(b, value)
	return append(b, ',')
}

// appendString appends s as a JSON string. Names come from callers, so anything
// may be in them.
func appendString(b []byte, s string) []byte {
	if !plain(s) {
		q, err := json.Marshal(s)
		if err != nil { // a string cannot fail
			q = []byte(`""`)
		}
		return append(b, q...)
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// plain reports whether s stands for itself in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return true
}
