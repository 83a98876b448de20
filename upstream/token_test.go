package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"
)

// fetches gives out t1, t2, ... each after the time it takes.
type fetches struct {
	calls atomic.Int64
	takes time.Duration
	life  int64 // seconds
	err   error
}

func (f *fetches) fetch(ctx context.Context) (*oauth2.Token, error) {
	n := f.calls.Add(1)
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	return &oauth2.Token{AccessToken: fmt.Sprintf("t%d", n), ExpiresIn: f.life}, nil
}

func want(t *testing.T, s *TokenSource, access string) *oauth2.Token {
	t.Helper()
	token, err := s.Token(t.Context())
	if err != nil || token.AccessToken != access {
		t.Fatalf("token %v, %v; want %s", token, err, access)
	}
	return token
}

func TestConcurrentCallersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{takes: time.Second, life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if token, err := s.Token(t.Context()); err != nil || token.AccessToken != "t1" {
					t.Errorf("%v, %v", token, err)
				}
			})
		}
		wg.Wait()
		if n := f.calls.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

func TestCallerThatGoesDoesNotEndTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{takes: 10 * time.Second, life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the one in a hurry: %v", err)
		}
		want(t, s, "t1")
		if n := f.calls.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

func TestLifeIsCountedFromTheRequest(t *testing.T) { // T26
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		f := &fetches{takes: 20 * time.Second, life: 3600}
		token := want(t, NewTokenSource(TokenSourceConfig{Fetch: f.fetch}), "t1")
		if !token.Expiry.Equal(start.Add(time.Hour)) {
			t.Errorf("expires %v after the request, want an hour", token.Expiry.Sub(start))
		}

		// A fetcher that counts from the answer is put right.
		start = time.Now()
		late := func(context.Context) (*oauth2.Token, error) {
			time.Sleep(20 * time.Second)
			return &oauth2.Token{AccessToken: "t1", Expiry: time.Now().Add(time.Hour)}, nil
		}
		token = want(t, NewTokenSource(TokenSourceConfig{Fetch: late}), "t1")
		if !token.Expiry.Equal(start.Add(time.Hour)) {
			t.Errorf("expires %v after the request, want an hour", token.Expiry.Sub(start))
		}
	})
}

func TestRenewedAheadWithoutWaiting(t *testing.T) {
	for _, tt := range []struct {
		name       string
		life       int64
		fresh, due time.Duration // after the request
	}{
		{"an hour: 60 s ahead", 3600, 3539 * time.Second, 3541 * time.Second},
		{"100 s: at 80 %", 100, 79 * time.Second, 81 * time.Second},
		{"5 s: at 80 %", 5, 3900 * time.Millisecond, 4050 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fetches{life: tt.life}
				s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
				want(t, s, "t1")
				time.Sleep(tt.fresh)
				want(t, s, "t1")
				synctest.Wait()
				if n := f.calls.Load(); n != 1 {
					t.Fatalf("%d fetches while fresh", n)
				}
				if at := time.Until(s.Due()); at <= 0 || at > tt.due-tt.fresh {
					t.Errorf("due in %v", at)
				}
				time.Sleep(tt.due - tt.fresh)
				f.takes = 100 * time.Millisecond
				before := time.Now()
				want(t, s, "t1") // still good, so nobody waits
				if time.Since(before) != 0 {
					t.Error("the caller waited although there was a token")
				}
				time.Sleep(200 * time.Millisecond)
				want(t, s, "t2")
			})
		})
	}
}

// A source that never got a token has none in use, whatever it is about to do.
func TestUntilKnowsOfNoTokenThatWasNeverGot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{err: &Error{Upstream: "pam", Op: "get access token", Code: Unavailable}, life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		if _, err := s.Token(t.Context()); err == nil {
			t.Fatal("a token")
		}
		if at, ok := s.Until(); ok {
			t.Errorf("a token in use until %v, and none was got", at)
		}
		f.err = nil
		time.Sleep(time.Minute)
		want(t, s, "t2")
		if at, ok := s.Until(); !ok || time.Until(at) < 59*time.Minute || time.Until(at) >= time.Hour {
			t.Errorf("in use until %v, %v", at, ok)
		}
		time.Sleep(time.Hour)
		if at, ok := s.Until(); ok {
			t.Errorf("ended, and in use until %v", at)
		}
	})
}

func TestFailedRenewalLeavesTheTokenInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		want(t, s, "t1")
		f.err = errors.New("down")
		time.Sleep(3541 * time.Second)
		for range 20 {
			want(t, s, "t1")
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.calls.Load(); n > 5 {
			t.Errorf("%d fetches within 2 s of an outage", n-1)
		}
		time.Sleep(time.Minute)
		if _, err := s.Token(t.Context()); err == nil {
			t.Error("a dead token is still given out")
		}
	})
}

func TestEvictsExactlyTheRefused(t *testing.T) { // T25
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		want(t, s, "t1")
		s.Evict("t1")
		want(t, s, "t2")
		s.Evict("t1") // someone slow had used the old one
		want(t, s, "t2")
		if n := f.calls.Load(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

func TestRefusedTokenDoesNotComeBackByAFetchUnderWay(t *testing.T) { // T27
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		s := NewTokenSource(TokenSourceConfig{Fetch: func(context.Context) (*oauth2.Token, error) {
			time.Sleep(time.Second)
			if calls.Add(1) <= 2 {
				return &oauth2.Token{AccessToken: "old", ExpiresIn: 100}, nil // it gives out the same one while it lives
			}
			return &oauth2.Token{AccessToken: "new", ExpiresIn: 100}, nil
		}})
		want(t, s, "old")
		time.Sleep(81 * time.Second)
		want(t, s, "old") // starts the second fetch
		time.Sleep(500 * time.Millisecond)
		s.Evict("old")
		want(t, s, "new")
	})
}

func TestLateAnswerNeverReplacesANewerToken(t *testing.T) { // T25
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		var told []string
		s := NewTokenSource(TokenSourceConfig{
			Timeout: 10 * time.Second,
			Fetch: func(context.Context) (*oauth2.Token, error) {
				if calls.Add(1) == 1 {
					time.Sleep(time.Minute) // does not hear its context either
					return &oauth2.Token{AccessToken: "late", ExpiresIn: 3600}, nil
				}
				return &oauth2.Token{AccessToken: "newer", ExpiresIn: 3600}, nil
			},
			OnNew: func(token *oauth2.Token) { told = append(told, token.AccessToken) },
		})
		if _, err := s.Token(t.Context()); err == nil {
			t.Fatal("a fetch that hangs is waited for without end")
		}
		time.Sleep(5 * time.Second) // past the back-off
		want(t, s, "newer")
		time.Sleep(5 * time.Minute)
		want(t, s, "newer")
		synctest.Wait()
		if fmt.Sprint(told) != "[newer]" {
			t.Errorf("taken into use: %v", told)
		}
	})
}

func TestPutWinsOverAFetchUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{takes: time.Second, life: 3600}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		go func() {
			time.Sleep(500 * time.Millisecond)
			// As it comes from a store: its expires_in is of a request long ago.
			s.Put(&oauth2.Token{AccessToken: "stored", Expiry: time.Now().Add(time.Minute), ExpiresIn: 3600})
		}()
		want(t, s, "stored")
		time.Sleep(10 * time.Second)
		want(t, s, "stored")
		if d := time.Until(s.Due()); d > time.Minute {
			t.Errorf("due in %v", d)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{err: &Error{Upstream: "pam", Op: "get access token", Code: Busy, RetryAfter: 5 * time.Minute}}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		for range 30 {
			_, err := s.Token(t.Context())
			if CodeOf(err) != Busy {
				t.Fatal(err)
			}
			time.Sleep(9900 * time.Millisecond)
		}
		if n := f.calls.Load(); n != 1 {
			t.Errorf("%d fetches within Retry-After", n)
		}
		_, err := s.Token(t.Context())
		if e := err.(*Error); e.RetryAfter <= 0 || e.RetryAfter > 4*time.Second {
			t.Errorf("still to wait: %v, want the rest", e.RetryAfter)
		}
		f.err, f.life = nil, 60
		time.Sleep(4 * time.Second)
		want(t, s, "t2")
	})
}

func TestOutageMakesOneFetchPerBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{err: errors.New("down")}
		s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
		for range 3600 {
			_, _ = s.Token(t.Context())
			time.Sleep(100 * time.Millisecond)
		}
		// 360 s, pauses of 1 s growing to 15 s, each by half either way
		if n := f.calls.Load(); n < 15 || n > 60 {
			t.Errorf("%d fetches in six minutes of an outage", n)
		}
	})
}

func TestEmptyTokenIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewTokenSource(TokenSourceConfig{Fetch: func(context.Context) (*oauth2.Token, error) { return &oauth2.Token{}, nil }})
		if token, err := s.Token(t.Context()); err == nil {
			t.Errorf("token %+v", token)
		}
	})
}

func TestAuthorizedRetriesOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after int // calls that are refused
		asErr bool
		calls int
		good  bool
	}{
		{"accepted", 0, false, 1, true},
		{"revoked", 1, false, 2, true},
		{"revoked, as an error", 1, true, 2, true},
		{"never accepted", 9, false, 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fetches{life: 3600}
				s := NewTokenSource(TokenSourceConfig{Fetch: f.fetch})
				var used []string
				resp, err := Authorized(t.Context(), s, func(token *oauth2.Token) (*Response, error) {
					used = append(used, token.AccessToken)
					switch {
					case len(used) > tt.after:
						return &Response{Status: 200}, nil
					case tt.asErr:
						return nil, &Error{Status: 401}
					}
					return &Response{Status: 401}, nil
				})
				if good := err == nil && resp.Status == 200; good != tt.good || len(used) != tt.calls {
					t.Errorf("%v, %v, tokens %v", resp, err, used)
				}
			})
		})
	}
}
