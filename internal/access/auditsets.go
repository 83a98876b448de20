package access

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AuditFiles are the audit file at path and those that were set aside before
// it, oldest first: by the agent as path.000001, or by logrotate as path.1 or
// path-20300101. The chain says which comes after which; where it does not, the
// names do. Compressed files are not looked at.
func AuditFiles(path string) ([]string, error) {
	names, err := rotated(path)
	if err != nil {
		return nil, err
	}
	_, err = os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return byChain(names, -1), nil
	case err != nil:
		return nil, cause(err)
	}
	return byChain(append(names, path), len(names)), nil
}

// AuditFilesAfter are those files, in the order of the chain, that come after the
// line of a hash. Where none does, it is the last one, whose first line will not
// follow.
func AuditFilesAfter(files []string, hash string) []string {
	for i, name := range files {
		if linkOf(name).prev == hash {
			return files[i:]
		}
	}
	return files[max(0, len(files)-1):]
}

// rotated are the files beside path that its chain may lie in, by their names:
// ascending for ours and for dates, descending for logrotate's own numbers.
func rotated(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, cause(err)
	}
	type file struct {
		name  string
		class int
		order int
	}
	var found []file
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok || !e.Type().IsRegular() || len(rest) < 2 || strings.Trim(rest[1:], "0123456789-") != "" {
			continue
		}
		f := file{name: filepath.Join(filepath.Dir(path), e.Name())}
		n, err := strconv.Atoi(rest[1:])
		switch {
		case rest[0] == '-': // a date
			f.class = 1
		case rest[0] != '.' || err != nil:
			continue
		case len(rest) == 1+digits: // ours
			f.order = n
		default:
			f.class, f.order = 2, -n
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b file) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.order, b.order), cmp.Compare(a.name, b.name))
	})
	out := make([]string, len(found))
	for i, f := range found {
		out[i] = f.name
	}
	return out, nil
}

// A link is where a file begins and ends in the chain.
type link struct {
	name       string
	prev, last string // hashes; "" in a file without a whole line
}

// byChain puts files in the order of the chain. newest is the place of the last
// one, -1 where that is not known. Those that the chain does not lead to come
// first, as they are.
func byChain(names []string, newest int) []string {
	links := make([]link, len(names))
	for i, name := range names {
		links[i] = linkOf(name)
	}
	if newest < 0 {
		newest = lastLink(links)
	}
	var out []string // newest first
	for at := newest; at >= 0; {
		l := links[at]
		out, links = append(out, l.name), slices.Delete(links, at, at+1)
		if l.prev == "" { // nothing was written to it yet
			at = lastLink(links)
			continue
		}
		at = slices.IndexFunc(links, func(before link) bool { return before.last == l.prev })
	}
	for _, l := range slices.Backward(links) {
		out = append(out, l.name)
	}
	slices.Reverse(out)
	return out
}

// lastLink is the place of the file that no other goes on from, -1 if there is
// none.
func lastLink(links []link) int {
	for i, l := range slices.Backward(links) {
		if l.last != "" && !slices.ContainsFunc(links, func(next link) bool { return next.prev == l.last }) {
			return i
		}
	}
	return -1
}

// linkOf says nothing of a file that cannot be read: who reads it is told.
func linkOf(name string) link {
	l := link{name: name, prev: "unknown"}
	f, err := os.Open(name)
	if err != nil {
		return l
	}
	defer f.Close()
	last, _, _, err := lastLine(f)
	if err != nil {
		return l
	}
	if last == nil {
		l.prev = ""
		return l
	}
	h := hashLine(last)
	l.last = hex.EncodeToString(h[:])
	var first struct {
		Prev string `json:"prev"`
	}
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if err == nil && json.Unmarshal(line, &first) == nil && first.Prev != "" {
		l.prev = first.Prev
	}
	return l
}

// digits is how many a file that is set aside has at the end of its name.
const digits = 6

// setAside gives the file, which has grown large, another name and begins a new
// one. All lines are in it and synced. Of files that were set aside before, more
// than are kept are removed when the new file says so.
func (w *writer) setAside() error {
	if err := w.sync(); err != nil {
		return err
	}
	names, err := rotated(w.path)
	if err != nil {
		return err
	}
	aside := slices.DeleteFunc(names, func(name string) bool { return len(name) != len(w.path)+1+digits || name[len(w.path)] != '.' })
	n := 0
	if len(aside) > 0 {
		if n, err = strconv.Atoi(aside[len(aside)-1][len(w.path)+1:]); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s.%0*d", w.path, digits, n+1)
	if err := os.Rename(w.path, name); err != nil {
		return cause(err)
	}
	if err := w.reopen(); err != nil {
		return err
	}
	aside = append(aside, name)
	if w.keep == 0 || len(aside) <= w.keep {
		return nil
	}
	return w.drop(aside[:len(aside)-w.keep])
}

// eventDropped is the event of a line that says up to which other the chain was
// removed because no more of it is to be kept.
const eventDropped = "audit.dropped"

// drop removes files. That it did is on the disk before, or the chain would seem
// to have lost its beginning.
func (w *writer) drop(names []string) error {
	last := linkOf(names[len(names)-1]).last
	w.chain((&Entry{Time: time.Now(), Event: eventDropped, Outcome: "ok", Hash: last, Count: len(names)}).appendTo(nil))
	if err := errors.Join(w.drain(), w.sync()); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return cause(err)
		}
	}
	return nil
}

// before is the last line of the file before this one, or nil if there is none.
func (w *writer) before() ([]byte, error) {
	names, err := rotated(w.path)
	if err != nil {
		return nil, err
	}
	if names = byChain(names, -1); len(names) == 0 {
		return nil, nil
	}
	f, err := os.Open(names[len(names)-1])
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	last, _, _, err := lastLine(f)
	return last, err
}

// AuditKeysFile is where the public keys that verify the audit at path lie, as
// PEM with the name of the key as header "Key".
func AuditKeysFile(path string) string { return path + ".keys" }
