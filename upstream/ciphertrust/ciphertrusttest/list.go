package ciphertrusttest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// page is the envelope of every list.
type page struct {
	Skip      int      `json:"skip"`
	Limit     int      `json:"limit"`
	Total     int      `json:"total"`
	Resources []any    `json:"resources"`
	Messages  []string `json:"messages,omitempty"`
}

// A filter reports whether an item is as a query parameter wants it.
type filter[T any] func(item T, want string) bool

// like compares a field of the item with a pattern.
func like[T any](field func(T) string) filter[T] {
	return func(item T, want string) bool { return wildcard(want, field(item)) }
}

// list answers those of the items that pass the filters of the query, in pages.
// A parameter that it does not know is not refused but warned of.
func list[T any](c *call, items []T, filters map[string]filter[T], show func(T) any) (any, *refusal) {
	skip, no := c.number("skip", 0)
	if no != nil {
		return nil, no
	}
	limit, no := c.number("limit", 10)
	if no != nil {
		return nil, no
	}
	p := page{Skip: skip, Limit: limit, Resources: []any{}}
	for _, name := range slices.Sorted(maps.Keys(c.query)) {
		if _, ok := filters[name]; !ok && name != "skip" && name != "limit" {
			p.Messages = append(p.Messages, fmt.Sprintf("query parameter %q is not supported", name))
		}
	}
	for _, item := range items {
		passes := true
		for name, f := range filters {
			if want := c.query.Get(name); f != nil && want != "" && !f(item, want) {
				passes = false
				break
			}
		}
		if !passes {
			continue
		}
		p.Total++
		if p.Total > skip && (limit == 0 || len(p.Resources) < limit) {
			p.Resources = append(p.Resources, show(item))
		}
	}
	return p, nil
}

// number is a query parameter that cannot be negative.
func (c *call) number(name string, byDefault int) (int, *refusal) {
	if !c.query.Has(name) {
		return byDefault, nil
	}
	n, err := strconv.Atoi(c.query.Get(name))
	if err != nil || n < 0 {
		return 0, invalid(fmt.Sprintf("%s: want a number that is not negative", name))
	}
	return n, nil
}

// flag is a query parameter that is true or false.
func (c *call) flag(name string) bool { return c.query.Get(name) == "true" }

// wildcard reports whether text is as the pattern says, where * stands for any
// run of characters and ? for any one.
func wildcard(pattern, text string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == text
	}
	p, t := []rune(pattern), []rune(text)
	star, mark := -1, 0 // the last *, and where it was tried up to
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}

// yes compares a truth with true or false.
func yes(v bool, want string) bool { return strconv.FormatBool(v) == want }
