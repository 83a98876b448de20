package access

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// TailOf are the last n lines of an audit file, all if n is negative, up to the last
// whole one that it has now.
func TailOf(f *os.File, n int) (io.Reader, error) {
	_, end, _, err := lastLine(f)
	if err != nil {
		return nil, cause(err)
	}
	start := int64(0)
	if n >= 0 {
		if start, err = startOf(f, end, n); err != nil {
			return nil, cause(err)
		}
	}
	return io.NewSectionReader(f, start, end-start), nil
}

// startOf is where the last n of the lines that end at end begin.
func startOf(f *os.File, end int64, n int) (int64, error) {
	block := make([]byte, 32<<10)
	newlines := -1 // the last one ends the last line
	for end > 0 {
		size := min(end, int64(len(block)))
		end -= size
		if _, err := f.ReadAt(block[:size], end); err != nil {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if block[i] == '\n' {
				if newlines++; newlines == n {
					return end + i + 1, nil
				}
			}
		}
	}
	return 0, nil
}

// OpenAuditTail opens an audit that is being written to for the last n lines of its
// file.
func OpenAuditTail(path string, n int) (io.ReadCloser, error) {
	f, err := openToRead(path)
	if err != nil {
		return nil, err
	}
	r := &auditReader{last: f}
	if r.rest, err = TailOf(f, n); err != nil {
		return nil, errors.Join(&AuditError{path, err}, r.Close())
	}
	return r, nil
}

// OpenAuditLines opens an audit that is being written to for all its lines up to the
// last one that it has now, of all its files in the order of the chain; after is for
// [AuditFilesAfter], "" leaves nothing out.
func OpenAuditLines(path, after string) (io.ReadCloser, error) {
	const tries = 3
	for try := 1; ; try++ {
		f, err := openToRead(path)
		if err != nil {
			return nil, err
		}
		r := &auditReader{last: f}
		if r.rest, err = TailOf(f, -1); err == nil {
			r.names, err = AuditFiles(path)
		}
		if err != nil {
			return nil, errors.Join(&AuditError{path, err}, r.Close())
		}
		// Set aside in between it would be in the list by its new name, and in its
		// place one that has only just been begun.
		if now, err := os.Lstat(path); err == nil && isFile(f, now) || try == tries {
			if after != "" {
				r.names = AuditFilesAfter(r.names, after)
			}
			r.names = r.names[:max(0, len(r.names)-1)]
			return r, nil
		}
		_ = r.Close() // it was only read
	}
}

func isFile(f *os.File, is os.FileInfo) bool {
	st, err := f.Stat()
	return err == nil && os.SameFile(st, is)
}

// openToRead opens a file of an audit, and nothing else that may be in its place.
func openToRead(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &AuditError{path, cause(err)}
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, &AuditError{path, errors.Join(errors.New("is no file"), err, f.Close())}
	}
	return f, nil
}

// An auditReader reads the files of an audit, one after the other.
type auditReader struct {
	names []string // to be read before the last one
	now   *os.File // of those, or nil
	last  *os.File
	rest  io.Reader // of last
}

func (r *auditReader) Read(p []byte) (int, error) {
	for {
		if r.now == nil {
			if len(r.names) == 0 {
				return r.rest.Read(p)
			}
			var err error
			if r.now, err = openToRead(r.names[0]); err != nil {
				return 0, err
			}
			r.names = r.names[1:]
		}
		n, err := r.now.Read(p)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		_ = r.now.Close() // it was only read
		r.now = nil
	}
}

func (r *auditReader) Close() error {
	if r.now != nil {
		_ = r.now.Close()
	}
	return r.last.Close()
}
