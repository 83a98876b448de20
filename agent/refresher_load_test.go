package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/sinks"
	"github.com/signet-agent/signet/upstream"
)

// A sink that hangs, as files do on a frozen file system, keeps nobody from the
// state of the secrets: status and metrics answer.
func TestASinkThatHangsAtTheStartDoesNotHideTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCacheBench(t, secretSpec{TTL: time.Hour}, nil, func() (upstream.Secret, error) {
			return upstream.Secret{Fields: value("one")}, nil
		})
		stop := b.start(t)
		synctest.Wait()
		stop()

		next := newCacheBench(t, secretSpec{TTL: time.Hour}, nil, nil)
		for _, it := range next.items {
			it.held, it.index = nil, -1
		}
		next.queue = nil
		frozen, loaded := make(chan struct{}), make(chan struct{})
		next.publish = func(*sinks.Secret) { <-frozen }
		go func() {
			next.load(b.disk)
			close(loaded)
		}()
		synctest.Wait()
		if !next.refresher.mu.TryLock() {
			t.Error("the state cannot be read")
		} else if next.refresher.mu.Unlock(); password(&next.items["db"].held.Secret) != "one" {
			t.Errorf("the state is %+v", next.items["db"].held)
		}
		close(frozen)
		<-loaded
	})
}
