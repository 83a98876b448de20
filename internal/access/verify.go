package access

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A ChainError says where the chain of an audit file is broken.
type ChainError struct {
	Line int // counted from 1
	Why  string
}

func (e *ChainError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Why) }

// Verify follows the chain through an audit file. It begins from prev, the hash
// that the file before it ended with; "" takes the first line's word for it. It
// returns the hash to go on from. A [*ChainError] says where a line was changed,
// removed or moved; what was cut off at the end only a signature or a known
// [Head] can show.
func Verify(r io.Reader, prev string) (head string, lines int, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return prev, lines, &ChainError{lines + 1, "not whole"}
			}
			return prev, lines, nil
		}
		if err != nil {
			return prev, lines, err
		}
		lines++
		line = line[:len(line)-1]
		var l struct {
			Prev string `json:"prev"`
		}
		if err := json.Unmarshal(line, &l); err != nil || l.Prev == "" {
			return prev, lines, &ChainError{lines, "not a line of an audit file"}
		}
		if prev != "" && l.Prev != prev {
			return prev, lines, &ChainError{lines, "does not follow from the line before it: one of the two was changed, or lines between them removed"}
		}
		h := hashLine(line)
		prev = hex.EncodeToString(h[:])
	}
}
