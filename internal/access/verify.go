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

// A Verifier follows a chain through its files, oldest first. What was cut off
// at the end only a [Head] that is known otherwise can show, or the line that the
// agent writes when it misses it.
type Verifier struct {
	// Head is the hash of the last line. Set before the first file it is what
	// the file before that ended with; "" takes the first line's word for it.
	Head string
	// Keys are the public keys of signatures, by name: "audit#1". Without any,
	// signatures are not looked at.
	Keys map[string]crypto.PublicKey

	Lines    int // so far
	Signed   int // of these, the lines that a good signature covers
	Unsigned int // lines after those
	// Cut is the first place where the agent has found that lines were cut off; the
	// chain goes on behind it. Its line counts through all files.
	Cut *ChainError
	// Headless is set where the first line follows one that is in no file read.
	Headless bool

	since map[string]int // hash of each line that is not covered yet, and its number
	// partial is set while a signature may be of a line before the first one.
	partial bool
}

// Verify follows the chain through an audit file. It begins from prev, the hash
// that the file before it ended with; "" takes the first line's word for it. It
// returns the hash to go on from. A [*ChainError] says where a line was changed,
// removed or moved.
func Verify(r io.Reader, prev string) (head string, lines int, err error) {
	v := Verifier{Head: prev}
	err = v.Read(r)
	return v.Head, v.Lines, err
}

// Read goes on with the next file.
func (v *Verifier) Read(r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
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
		v.Headless = v.partial && v.Head == ""
	}
	if l.Event == eventCut && v.Cut == nil {
		v.Cut = &ChainError{v.Lines + 1, "the agent found lines missing before this one, that with the hash " + l.Hash + " among them"}
	}
	if l.Event == eventSigned && v.Keys != nil {
		if why := v.signature(l.Hash, l.Signature, l.Key); why != "" {
			return why
		}
	}
	h := hashLine(line)
	v.Head = hex.EncodeToString(h[:])
	v.Lines++
	v.Unsigned = v.Lines - v.Signed
	if v.Keys != nil {
		v.cover(v.Head)
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
