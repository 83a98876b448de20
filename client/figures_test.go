//go:build bench

package client

import (
	"sync"
	"testing"
	"time"
)

// TestFiguresSecret measures a read of a secret that this process keeps, against
// what any shared map costs and what the socket costs.
func TestFiguresSecret(t *testing.T) {
	a := newAgent(t)
	a.secret("db").set("1", time.Hour)
	c := a.client()
	read := func(b *testing.B) {
		if _, err := c.Secret(b.Context(), "db"); err != nil {
			b.Fatal(err)
		}
	}
	one := nanoseconds(func(b *testing.B) {
		for b.Loop() {
			read(b)
		}
	})
	all := nanoseconds(func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				read(b)
			}
		})
	})
	var mu sync.RWMutex
	kept := map[string]*Secret{"db": {Name: "db", Version: "1"}}
	locked := nanoseconds(func(b *testing.B) {
		for b.Loop() {
			mu.RLock()
			s := kept["db"]
			mu.RUnlock()
			if s.Version != "1" {
				b.Fatal(s)
			}
		}
	})
	socket := nanoseconds(func(b *testing.B) {
		for b.Loop() {
			if _, err := c.ReadSecret(b.Context(), "db"); err != nil {
				b.Fatal(err)
			}
		}
	})
	const required = 100.0
	t.Logf("%-44s %10s %10s %8s %10s", "client.Secret", "measured", "reference", "ratio", "required")
	row := func(what string, ns, reference float64, want string) {
		t.Logf("%-44s %7.1f ns %7.1f ns %8.3f %10s", what, ns, reference, ns/reference, want)
	}
	row("one goroutine; a map under an RWMutex", one, locked, "< 100 ns")
	row("all processors at once; the same", all, locked, "< 100 ns")
	row("one goroutine; a request over the socket", one, socket, "-")
	if one >= required || all >= required {
		t.Errorf("a read takes %.1f and %.1f ns, and has to take less than %.0f", one, all, required)
	}
}

// nanoseconds is the time of one run of a benchmark.
func nanoseconds(f func(b *testing.B)) float64 {
	r := testing.Benchmark(f)
	return float64(r.T.Nanoseconds()) / float64(r.N)
}
