package systemd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// LogOptions say how the log looks.
type LogOptions struct {
	// Level is the least that is logged; nil is Info.
	Level slog.Leveler
	// Format is text or json, written to w. If empty, it is the journal where
	// standard error is connected to it, and text elsewhere.
	Format string
}

// NewLogHandler is the handler of the agent's log.
func NewLogHandler(w io.Writer, opt LogOptions) slog.Handler {
	plain := &slog.HandlerOptions{Level: opt.Level}
	switch opt.Format {
	case "json":
		return slog.NewJSONHandler(w, plain)
	case "":
		if ok, err := journal.StderrIsJournalStream(); ok && err == nil {
			return newJournalHandler(opt.Level, journal.Send, slog.NewTextHandler(w, plain))
		}
	}
	return slog.NewTextHandler(w, plain)
}

// A journalHandler writes to the journal in its own protocol, so that the
// level is its priority and each attribute a field to search for:
// `journalctl SIGNET_SECRET=db`. The message has the attributes too, for those
// who only read.
type journalHandler struct {
	level    slog.Leveler
	send     func(string, journal.Priority, map[string]string) error
	fallback slog.Handler // for what the journal does not take

	mu     *sync.Mutex   // guards text and the buffer below it
	buf    *bytes.Buffer // what text writes to
	text   slog.Handler
	attrs  []field // of WithAttrs
	prefix string  // of WithGroup
}

type field struct{ name, value string }

func newJournalHandler(level slog.Leveler, send func(string, journal.Priority, map[string]string) error, fallback slog.Handler) *journalHandler {
	if level == nil {
		level = slog.LevelInfo
	}
	buf := new(bytes.Buffer)
	text := slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.Level(-100), ReplaceAttr: withoutBuiltins})
	return &journalHandler{level: level, send: send, fallback: fallback, mu: new(sync.Mutex), buf: buf, text: text}
}

// withoutBuiltins drops what the journal has fields for.
func withoutBuiltins(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	h.buf.Reset()
	err := h.text.Handle(ctx, r)
	message := strings.TrimSpace(r.Message + " " + strings.TrimSuffix(h.buf.String(), "\n"))
	h.mu.Unlock()
	if err != nil {
		return err
	}
	fields := h.attrs
	r.Attrs(func(a slog.Attr) bool {
		fields = appendFields(slices.Clip(fields), h.prefix, a)
		return true
	})
	vars := map[string]string{"SYSLOG_IDENTIFIER": "signet"}
	for _, f := range fields {
		vars[f.name] = f.value
	}
	if h.send(message, priority(r.Level), vars) != nil {
		return h.fallback.Handle(ctx, r)
	}
	return nil
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.text, c.fallback = h.text.WithAttrs(attrs), h.fallback.WithAttrs(attrs)
	c.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		c.attrs = appendFields(c.attrs, h.prefix, a)
	}
	return &c
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.text, c.fallback = h.text.WithGroup(name), h.fallback.WithGroup(name)
	c.prefix = h.prefix + name + "_"
	return &c
}

// appendFields adds an attribute, a group as one field for each of its own.
func appendFields(fields []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "_"
		}
		for _, in := range v.Group() {
			fields = appendFields(fields, prefix, in)
		}
		return fields
	}
	if a.Key == "" {
		return fields
	}
	return append(fields, field{fieldName(prefix + a.Key), v.String()})
}

// fieldName is the name of a field as the journal wants it. They all begin
// alike, so that none can be taken for one that the journal itself vouches for.
func fieldName(key string) string {
	upper := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	name := "SIGNET_" + upper
	return name[:min(len(name), 64)]
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// NewLogger is the agent's logger on standard error.
func NewLogger(opt LogOptions) *slog.Logger { return slog.New(NewLogHandler(os.Stderr, opt)) }
