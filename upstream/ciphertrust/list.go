package ciphertrust

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-agent/signet/upstream"
)

// A Filter narrows a list down. Its keys are the server's own; each kind of
// list has its own set, such as [UserFilters]. Most values may hold ? and * as
// wildcards.
type Filter map[string]string

// pageSize is how many records are asked for at once: few enough that a page
// with certificates stays far below the limit of an answer.
const pageSize = 250

// page is the envelope of every list.
type page struct {
	Skip      int               `json:"skip"`
	Limit     int               `json:"limit"`
	Total     int               `json:"total"`
	Resources []json.RawMessage `json:"resources"`
	Messages  []string          `json:"messages"`
}

func asError(err error) (*upstream.Error, bool) { return errors.AsType[*upstream.Error](err) }

// A record is what lists are made of. It keeps the server's own text, which may
// say more than this version knows.
type record interface{ keep(json.RawMessage) }

// Raw is the text of a record as the server sent it.
type Raw struct {
	JSON json.RawMessage `json:"-"`
}

func (r *Raw) keep(text json.RawMessage) { r.JSON = text }

// list reads a list page by page as it is ranged over, so that no list is ever
// in memory as a whole. It ends with the first error.
func list[T any, P interface {
	*T
	record
}](ctx context.Context, c *Client, k call, known []string, f Filter) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		query, err := c.filter(k, known, f)
		if err != nil {
			yield(nil, err)
			return
		}
		for skip := 0; ; {
			query.Set("skip", strconv.Itoa(skip))
			query.Set("limit", strconv.Itoa(pageSize))
			k.query = query
			var p page
			if err := c.do(ctx, k, &p); err != nil {
				yield(nil, err)
				return
			}
			// A filter that the server does not know is left out by it, and the
			// list is then not the one that was asked for.
			if len(p.Messages) > 0 {
				yield(nil, c.failed(k, upstream.Invalid, upstream.OneLine("the server does not take the query as it is: "+p.Messages[0])))
				return
			}
			for _, text := range p.Resources {
				item := new(T)
				if err := decode(text, P(item)); err != nil {
					yield(nil, c.notUnderstood(k))
					return
				}
				if !yield(item, nil) {
					return
				}
			}
			skip += len(p.Resources)
			limit := pageSize
			if p.Limit > 0 {
				limit = min(limit, p.Limit) // the server may allow less
			}
			if len(p.Resources) < limit || skip >= p.Total {
				return
			}
		}
	}
}

// decode reads one record and keeps its text.
func decode(text json.RawMessage, into record) error {
	if err := json.Unmarshal(text, into); err != nil {
		return err
	}
	into.keep(text)
	return nil
}

// filter is the query of a list. Keys that the server would ignore are refused.
func (c *Client) filter(k call, known []string, f Filter) (url.Values, error) {
	q := url.Values{}
	for name, value := range k.query {
		q[name] = value
	}
	for name, value := range f {
		if !slices.Contains(known, name) {
			return nil, c.failed(k, upstream.Invalid, "no filter "+strconv.Quote(name)+"; there are "+strings.Join(known, ", "))
		}
		if value != "" {
			q.Set(name, value)
		}
	}
	return q, nil
}

// one makes a call that answers one record.
func one[T any, P interface {
	*T
	record
}](ctx context.Context, c *Client, k call, ids ...string) (*T, error) {
	var text json.RawMessage
	if err := c.on(ctx, k, &text, ids...); err != nil {
		return nil, err
	}
	item := new(T)
	if len(text) == 0 || decode(text, P(item)) != nil {
		return nil, c.notUnderstood(k)
	}
	return item, nil
}

// notUnderstood is the error of a success whose text is not what it should be.
func (c *Client) notUnderstood(k call) *upstream.Error {
	e := c.failed(k, upstream.Unavailable, "answer without the expected data")
	e.Status, e.Sent = 200, true
	return e
}
