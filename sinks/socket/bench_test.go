package socket

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/internal/secret"
	"github.com/signet-agent/signet/sinks"
)

// BenchmarkGetSecret reads a secret of 1 KiB over 16 connections, with policy
// and audit on; BenchmarkBareHandler is the same without any of it.
func BenchmarkGetSecret(b *testing.B) {
	dir := b.TempDir()
	policy, err := access.Compile([]access.Rule{{Callers: access.Callers{Users: []string{strconv.Itoa(os.Getuid())}}, Allow: access.Allow{Secrets: []string{"db"}}}})
	if err != nil {
		b.Fatal(err)
	}
	audit, err := access.OpenAudit(access.AuditConfig{Path: filepath.Join(dir, "audit.jsonl")})
	if err != nil {
		b.Fatal(err)
	}
	defer audit.Close()
	s := New(Config{Backend: &fake{}, Policy: policy, Audit: audit, Secrets: []string{"db"}})
	now := time.Now()
	s.PublishSecret(&sinks.Secret{Name: "db", Version: "1", Fields: sinks.FieldsOf(map[string]secret.Value{"password": secret.New([]byte(strings.Repeat("x", 1024)))}),
		FetchedAt: now, FreshUntil: now.Add(time.Hour), UsableUntil: now.Add(time.Hour)})
	bench(b, func(ctx context.Context, ln net.Listener) error { return s.Serve(ctx, ln) })
}

func BenchmarkBareHandler(b *testing.B) {
	body := []byte(strings.Repeat("x", 1250))
	bench(b, func(ctx context.Context, ln net.Listener) error {
		srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		})}
		context.AfterFunc(ctx, func() { srv.Close() })
		if err := srv.Serve(ln); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
}

func bench(b *testing.B, serve func(context.Context, net.Listener) error) {
	path := filepath.Join(b.TempDir(), "s.sock")
	ln, err := Listen(path, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, ln) }()
	b.ReportAllocs()
	b.SetParallelism(8) // connections per CPU
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("unix", path)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		for pb.Next() {
			if _, err := io.WriteString(c, "GET /v1/secrets/db HTTP/1.1\r\nHost: signet\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			if err := readAnswer(in); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	stop()
	if err := <-served; err != nil {
		b.Error(err)
	}
}

// readAnswer reads one answer with as little work as can be.
func readAnswer(in *bufio.Reader) error {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if n, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(n)); err != nil {
				return err
			}
		}
	}
	_, err := in.Discard(length)
	return err
}
