package access

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A Pattern says which requests a proxy forwards: "METHOD /path". In the path,
// "*" stands for any part of one segment, and for at least one character where
// it is the whole segment; "**" stands for anything, slashes included. The
// method "*" is any.
type Pattern struct {
	method string
	path   string
	tokens []token
}

// methods are those that a Pattern can name. CONNECT and TRACE are never
// forwarded.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*"}

// ParsePattern reads a Pattern. What it refuses, no request could match.
func ParsePattern(s string) (Pattern, error) {
	method, path, ok := strings.Cut(s, " ")
	short := s[:min(len(s), 60)]
	if !ok || !strings.HasPrefix(path, "/") {
		return Pattern{}, fmt.Errorf("%q is not a method and a path", short)
	}
	if !slices.Contains(methods, method) {
		return Pattern{}, fmt.Errorf("%q: the method is not one of %s", short, strings.Join(methods, ", "))
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(" ?#%\\", r) }) {
		return Pattern{}, fmt.Errorf("%q: the path holds a space, ?, #, %%, \\ or control character; it is compared with the decoded path, without query", short)
	}
	if strings.Contains(path, "***") {
		return Pattern{}, fmt.Errorf("%q: *** means nothing", short)
	}
	if err := checkSegments(path); err != nil {
		return Pattern{}, fmt.Errorf("%q: %w, and no such request is forwarded", short, err)
	}
	tokens := compilePath(path)
	if len(tokens) > maxTokens {
		return Pattern{}, fmt.Errorf("%q...: longer than %d characters", short, maxTokens)
	}
	return Pattern{method, path, tokens}, nil
}

func (p Pattern) String() string { return p.method + " " + p.path }

// Match reports whether a request is covered. The path has to be one that
// CleanPath has passed.
func (p Pattern) Match(method, path string) bool {
	return (p.method == "*" || p.method == method) && p.matchPath(path)
}

// A token is one element of a compiled path pattern.
type token struct {
	op op
	c  byte // for opByte
}

type op uint8

const (
	opByte    op = iota // exactly c
	opOne               // one character of a segment
	opSegment           // any number of characters of a segment
	opAny               // any number of characters
)

// maxTokens bounds the state of matchPath, so that it fits on the stack.
const maxTokens = 511

func compilePath(path string) []token {
	var out []token
	for i := 0; i < len(path); i++ {
		switch {
		case strings.HasPrefix(path[i:], "**"):
			out = append(out, token{op: opAny})
			i++
		case path[i] == '*':
			if path[i-1] == '/' && (i+1 == len(path) || path[i+1] == '/') {
				out = append(out, token{op: opOne}) // a whole segment is not empty
			}
			out = append(out, token{op: opSegment})
		default:
			out = append(out, token{opByte, path[i]})
		}
	}
	return out
}

// matchPath follows all ways to match at once, as a path comes from a caller
// who must not be able to choose one that takes long: the time is at most the
// product of both lengths.
func (p Pattern) matchPath(path string) bool {
	var a, b [maxTokens + 1]bool
	now, next := a[:len(p.tokens)+1], b[:len(p.tokens)+1]
	p.enter(now, 0)
	for i := range len(path) {
		c, alive := path[i], false
		clear(next)
		for at, t := range p.tokens {
			switch {
			case !now[at]:
				continue
			case t.op == opAny, t.op == opSegment && c != '/':
				p.enter(next, at)
			case t.op == opByte && c == t.c, t.op == opOne && c != '/':
				p.enter(next, at+1)
			default:
				continue
			}
			alive = true
		}
		if !alive {
			return false
		}
		now, next = next, now
	}
	return now[len(p.tokens)]
}

// enter marks a place in the pattern as reached, and those after it that need
// no character.
func (p Pattern) enter(set []bool, at int) {
	for ; !set[at]; at++ {
		set[at] = true
		if at == len(p.tokens) || p.tokens[at].op == opByte || p.tokens[at].op == opOne {
			return
		}
	}
}

// CleanPath decodes the path of a request that is to be forwarded, as it was
// sent, and refuses whatever a server could read as another path than the one
// that policy is asked about: "..", empty segments, encoded slashes, and the
// like.
func CleanPath(escaped string) (string, error) {
	if !strings.HasPrefix(escaped, "/") {
		return "", errors.New("the path does not begin with a slash")
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return "", errors.New("the path is not encoded correctly")
	}
	if strings.Count(path, "/") != strings.Count(escaped, "/") {
		return "", errors.New("the path holds an encoded slash")
	}
	for i := range len(path) {
		if c := path[i]; c < ' ' || c == 0x7f || c == '\\' {
			return "", errors.New("the path holds a control character or a backslash")
		}
	}
	if again, err := url.PathUnescape(path); err == nil && again != path {
		return "", errors.New("the path is encoded twice")
	}
	if err := checkSegments(path); err != nil {
		return "", err
	}
	return path, nil
}

// checkSegments refuses segments that are not names. What follows a semicolon
// is a parameter to some servers, so "..;x" is ".." to them.
func checkSegments(path string) error {
	rest := path[1:]
	for rest != "" {
		seg, after, more := strings.Cut(rest, "/")
		name, _, param := strings.Cut(seg, ";")
		switch {
		case name == "." || name == "..":
			return errors.New(`the path holds a "." or ".." segment`)
		case seg == "" || name == "" && param:
			return errors.New("the path holds an empty segment")
		}
		if !more {
			break
		}
		rest = after
	}
	return nil
}
