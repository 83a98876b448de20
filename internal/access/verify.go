package access

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A ChainError says where the chain of an audit file is broken.
type ChainError struct {
	Line int // counted from 1
	Why  string
}

func (e *ChainError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Why) }

// A Verifier follows a chain through its files, oldest first.
type Verifier struct {
	// Head is the hash of the last line. Set before the first file it is what
	// the file before that ended with, and nothing before is missed.
	Head string
	// End is the hash of a line that has to be there; "" demands none. Without it
	// nobody can see that lines were cut off at the end.
	End string
	// Keys are the public keys of signatures, by name: "audit#1". Without any,
	// signatures are counted and not looked at.
	Keys map[string]crypto.PublicKey
	// Growing is set for files that are written to meanwhile, whose last line need
	// not be whole behind that of the hash End.
	Growing bool

	Lines    int  // so far
	Signed   int  // of these, the lines that a good signature covers
	Unsigned int  // lines after those
	Stamps   int  // lines that sign others
	AtEnd    bool // the line of the hash End was read

	cut     *ChainError     // the first place where the agent has found lines cut off
	before  string          // hash that the first line follows and that no file has
	dropped map[string]bool // hashes of lines up to which the agent removed files
	since   map[string]int  // hash of each line that is not covered yet, and its number
	// partial is set while a signature may be of a line before the first one.
	partial bool
}

// Done says what is missing of what was read, after the last file: lines that the
// agent itself has missed, the beginning, or the end. A beginning that the agent
// removed because it is to keep no more is not missed.
func (v *Verifier) Done() error {
	switch {
	case v.Lines == 0:
		return errors.New("there is no line in it")
	case v.cut != nil:
		return fmt.Errorf("%w; the other %d lines are whole", v.cut, v.Lines-1)
	case v.before != "" && !v.dropped[v.before]:
		return &ChainError{1, "its beginning is missing: the line before it, with the hash " + v.before + ", is in none of the files"}
	case v.End != "" && !v.AtEnd:
		return &ChainError{v.Lines, "its end is missing: the line with the hash " + v.End + " is in none of the files"}
	}
	return nil
}

// Read goes on with the next file.
func (v *Verifier) Read(r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 && !(v.Growing && v.AtEnd) {
				return &ChainError{n, "not whole"}
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := v.line(line[:len(line)-1]); err != "" {
			return &ChainError{n, err}
		}
	}
}

// line takes up one line, or says what is wrong with it.
func (v *Verifier) line(line []byte) (why string) {
	var l struct {
		Event     string `json:"event"`
		Hash      string `json:"hash"`
		Signature string `json:"signature"`
		Key       string `json:"key"`
		Prev      string `json:"prev"`
	}
	if err := json.Unmarshal(line, &l); err != nil || l.Prev == "" {
		return "not a line of an audit file"
	}
	if v.Head != "" && l.Prev != v.Head {
		return "does not follow from the line before it: one of the two was changed, or lines between them removed"
	}
	if v.Lines == 0 {
		v.partial = strings.Trim(l.Prev, "0") != ""
		if v.partial && v.Head == "" {
			v.before = l.Prev
		}
	}
	if why := v.event(l.Event, l.Hash, l.Signature, l.Key); why != "" {
		return why
	}
	h := hashLine(line)
	v.Head = hex.EncodeToString(h[:])
	v.Lines++
	v.AtEnd = v.AtEnd || v.Head == v.End
	v.Unsigned = v.Lines - v.Signed
	if v.Keys != nil {
		v.cover(v.Head)
	}
	return ""
}

// event takes up a line that tells of the chain itself, or says what is wrong with
// it.
func (v *Verifier) event(event, hash, signature, key string) (why string) {
	switch event {
	case eventCut:
		if v.cut != nil {
			break
		}
		v.cut = &ChainError{v.Lines + 1, "the agent found lines missing before this one"}
		if hash != "" {
			v.cut.Why += ", that with the hash " + hash + " among them"
		}
	case eventDropped:
		if v.AtEnd { // anybody can have added it
			break
		}
		if v.dropped == nil {
			v.dropped = map[string]bool{}
		}
		v.dropped[hash] = true
	case eventSigned:
		v.Stamps++
		if v.Keys != nil {
			return v.signature(hash, signature, key)
		}
	}
	return ""
}

func (v *Verifier) cover(hash string) {
	if v.since == nil {
		v.since = map[string]int{}
	}
	v.since[hash] = v.Lines
}

// signature checks that a line signs one that came before it.
func (v *Verifier) signature(hash, signature, key string) (why string) {
	pub, ok := v.Keys[key]
	if !ok {
		return fmt.Sprintf("signed with key %q, whose public key is not known here", key)
	}
	sig, err := base64.StdEncoding.DecodeString(signature)
	digest := HeadDigest(hash)
	if ec, ok := pub.(*ecdsa.PublicKey); err != nil || !ok || !ecdsa.VerifyASN1(ec, digest[:], sig) {
		return fmt.Sprintf("the signature is not one of key %q", key)
	}
	n, ok := v.since[hash]
	switch {
	case !ok && v.partial:
		return ""
	case !ok:
		return "it signs a line that is not in the lines before it"
	}
	v.Signed, v.partial = n, false
	for h, at := range v.since {
		if at < n {
			delete(v.since, h)
		}
	}
	return ""
}
