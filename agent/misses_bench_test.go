//go:build bench

package agent

import (
	"sync"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// TestFiguresMisses has 100,000 readers at once miss a secret that was never
// fetched.
func TestFiguresMisses(t *testing.T) {
	const readers = 100000
	release := make(chan struct{})
	b := newCacheBench(t, secretSpec{TTL: time.Hour, MaxStale: day}, nil, func() (upstream.Secret, error) {
		<-release
		return upstream.Secret{Fields: value("one")}, nil
	})
	defer b.start(t)()
	var ready, done sync.WaitGroup
	ready.Add(readers)
	began := time.Now()
	for range readers {
		done.Go(func() {
			ready.Done()
			if err := b.join(t.Context(), b.ctx, "db"); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	close(release)
	done.Wait()
	t.Logf("%d concurrent misses of one secret: %d upstream call (must be 1), all answered in %v", readers, b.count(), time.Since(began).Round(time.Millisecond))
	if b.count() != 1 {
		t.Error("not one call")
	}
}
