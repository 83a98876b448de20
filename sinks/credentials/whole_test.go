package credentials

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/internal/access"
)

// An answer to the service manager is whole, however long it takes to read it:
// part of one would be a credential. Others are not waited for, and nor is
// anybody when the agent stops: it has 20 seconds for that. (T59)
func TestAnAnswerIsNotCutShort(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	for _, tt := range []struct {
		name  string
		uid   uint32
		stop  time.Duration // when the agent is asked to stop; 0 is never
		ends  time.Duration
		whole bool
	}{
		{"the service manager", 0, 0, 10 * time.Minute, true},
		{"somebody else", 1000, 0, 30 * time.Second, false},
		{"the service manager, and the agent stops", 0, time.Minute, time.Minute + 10*time.Second, false},
		{"somebody else, and the agent stops", 1000, time.Second, 11 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if tt.stop > 0 {
					time.AfterFunc(tt.stop, stop)
				}
				here, there := net.Pipe()
				q := &call{c: here, peer: access.Peer{UID: tt.uid}}
				q.entry.Peer = &q.peer
				done := make(chan error, 1)
				var took time.Duration
				go func() {
					start := time.Now()
					err := q.write(ctx, want)
					took = time.Since(start)
					done <- err
					here.Close()
				}()
				some := make([]byte, 10)
				if _, err := io.ReadFull(there, some); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				rest, _ := io.ReadAll(there)
				if got := append(some, rest...); bytes.Equal(got, want) != tt.whole {
					t.Errorf("%d of %d bytes came", len(got), len(want))
				}
				if err := <-done; (err == nil) != tt.whole || took != tt.ends {
					t.Errorf("error %v after %v, want it to end after %v", err, took, tt.ends)
				}
			})
		})
	}
}
