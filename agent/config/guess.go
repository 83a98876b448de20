package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// guess says which known word was probably meant by an unknown one, or which
// there are if they are few. It does so when it is printed, which it is not in
// the report on a sound file.
func guess[V any](word string, known map[string]V) fmt.Stringer { return guessed[V]{word, known} }

type guessed[V any] struct {
	word  string
	known map[string]V
}

func (g guessed[V]) String() string {
	best, least := "", len(g.word)/2+1
	names := slices.Sorted(maps.Keys(g.known))
	for _, name := range names {
		n := distance(g.word, name)
		if strings.HasPrefix(name, g.word) || strings.HasPrefix(g.word, name) {
			n = min(n, 2)
		}
		if n < least && n <= 3 {
			best, least = name, n
		}
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case len(names) > 0 && len(names) <= 12:
		return "there are " + strings.Join(names, ", ")
	}
	return ""
}

// distance is how many letters must be added, removed, changed or swapped with
// their neighbour to make b of a.
func distance(a, b string) int {
	row := func() []int { return make([]int, len(b)+1) }
	before, last, cur := row(), row(), row()
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(cur[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return last[len(b)]
}
