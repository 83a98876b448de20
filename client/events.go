package client

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"
)

// An Event is something that happened in the agent.
type Event struct {
	ID   string `json:"id,omitempty"`
	Type string `json:"type"` // "secret.changed", "certificate.changed", "renewal.failed", ...
	Name string `json:"name,omitempty"`
	// Data is the whole of what the agent said, as JSON.
	Data json.RawMessage `json:"data,omitempty"`
}

// Events yields what happens in the agent, as far as the caller may know of it,
// until ctx is done or the loop over it is left. While the agent is away it is
// asked again until it answers; what happened meanwhile may be missing. A caller
// that the agent does not let listen gets that error, and no more.
func (c *Client) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var back backOff
		var last string
		for ctx.Err() == nil {
			k := call{method: http.MethodGet, path: "/v1/events", what: "events", header: http.Header{"Accept": {"text/event-stream"}}}
			if last != "" {
				k.header.Set("Last-Event-ID", last)
			}
			resp, err := c.do(ctx, k)
			if definite(err) {
				yield(Event{}, err)
				return
			}
			if err == nil {
				began := time.Now()
				more := readEvents(resp.Body, &last, yield)
				resp.Body.Close()
				if !more {
					return
				}
				if time.Since(began) > maxPause {
					back.reset()
				}
			}
			if !back.wait(ctx, err) {
				return
			}
		}
	}
}

// maxEvent bounds one line of a stream of events.
const maxEvent = 1 << 20

// readEvents yields the events of a stream until it ends, and reports whether
// more are wanted. It leaves the ID of the newest that was whole in
// last.
func readEvents(r io.Reader, last *string, yield func(Event, error) bool) bool {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var e Event
	var data []string
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if e.ID != "" {
				*last = e.ID // only now: one that was cut off is wanted again
			}
			if len(data) > 0 {
				if !yield(finish(e, strings.Join(data, "\n")), nil) {
					return false
				}
			}
			e, data = Event{}, nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.ID = value
		case "event":
			e.Type = value
		case "data":
			data = append(data, value)
		}
	}
	return true
}

// finish makes an event of its data.
func finish(e Event, data string) Event {
	if !json.Valid([]byte(data)) {
		return e
	}
	e.Data = json.RawMessage(data)
	var d struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return e // data that is no object has no name
	}
	e.Name = d.Name
	if e.Type == "" {
		e.Type = d.Type
	}
	return e
}
