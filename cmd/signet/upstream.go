package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/upstream"
)

// through is a client of an upstream that makes its calls through the running
// agent, which adds its certificate or access token.
func (p *program) through(name string) (*upstream.HTTP, error) {
	return upstream.NewHTTP(upstream.HTTPConfig{
		Name: name, URL: "https://upstream", // the agent knows the real one
		Timeout: time.Minute, Through: refusals{p.agent().Transport(name), name},
	})
}

// theUpstream is the one that --upstream names, or else the only one of its
// type that the agent tells of.
func (p *program) theUpstream(cmd *cobra.Command, named, kind string) (client.Upstream, error) {
	s, err := p.agent().Status(cmd.Context())
	if err != nil {
		return client.Upstream{}, err
	}
	var found []client.Upstream
	for _, u := range s.Upstreams {
		if u.Type == kind && (named == "" || u.Name == named) {
			found = append(found, u)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case named != "":
		return client.Upstream{Name: named}, nil // the agent will say what is wrong with it
	case len(found) == 0:
		return client.Upstream{}, usage(cmd, "which upstream? there is no %s that you may know of; name it with --upstream", kind)
	}
	return client.Upstream{}, usage(cmd, "which upstream? there are several of type %s; name it with --upstream", kind)
}

// refusals turns what the agent itself refuses into errors, so that it is not
// taken for an answer of the upstream's.
type refusals struct {
	agent    http.RoundTripper
	upstream string
}

func (t refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.agent.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/problem+json" {
		return resp, nil
	}
	defer resp.Body.Close()
	var said struct{ Code, Detail, Hint string }
	if b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err != nil || json.Unmarshal(b, &said) != nil || said.Code == "" {
		return nil, fmt.Errorf("the agent answered %s without saying why", resp.Status)
	}
	e := &upstream.Error{Code: upstream.Code(said.Code), Text: upstream.OneLine(said.Detail), Remedy: said.Hint}
	if e.Code == upstream.Denied && e.Remedy == "" {
		e.Remedy = "it takes a rule under `policy:` in the agent's configuration, such as `allow: {proxy: {" + t.upstream + ": [\"" + req.Method + " " + req.URL.Path + "\"]}}`"
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
		e.Status = resp.StatusCode
	}
	return nil, e
}

// An upstreamError is what an upstream refused, with an exit status.
type upstreamError struct{ err *upstream.Error }

func (e *upstreamError) Error() string { return e.err.Error() }
func (e *upstreamError) Unwrap() error { return e.err }

// Code is for coder. What an upstream does not want is no bad usage.
func (e *upstreamError) Code() string {
	if e.err.Code == upstream.Invalid {
		return ""
	}
	return string(e.err.Code)
}

// explained gives an error of an upstream's its exit status.
func explained(err error) error {
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		return &upstreamError{e}
	}
	return err
}

// confirm asks a person at the terminal, unless yes was given.
func (p *program) confirm(ctx context.Context, cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	if _, people := terminal(p.stdin); !people {
		return usage(cmd, "nobody is there to ask: %s; say --yes", question)
	}
	_, _ = fmt.Fprint(p.stderr, printable(question)+" [y/N] ")
	answers := make(chan string, 1)
	go func() {
		var s string
		_, _ = fmt.Fscanln(p.stdin, &s)
		answers <- s
	}()
	select {
	case s := <-answers:
		if s = strings.ToLower(s); s == "y" || s == "yes" {
			return nil
		}
		return fmt.Errorf("%s: not confirmed, nothing was done", cmd.CommandPath())
	case <-ctx.Done():
		return ctx.Err()
	}
}
