package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

func TestNext(t *testing.T) {
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	before, after := noon.Add(-time.Hour), noon.Add(time.Hour)
	chain := [][]byte{{1}}
	end := noon.Add(90 * day)
	fresh := version{KeyID: "k1", CSR: []byte{1}, Chain: chain, Proven: true, ReceivedAt: before, RenewAt: after, NotAfter: end}
	stale := version{KeyID: "k1", CSR: []byte{1}, Chain: chain, Proven: true, ReceivedAt: before, RenewAt: before, NotAfter: end}
	ending := stale
	ending.ReceivedAt, ending.NotAfter = noon.Add(-8*time.Hour), noon.Add(2*time.Hour) // a fifth of ten hours
	warned := ending
	warned.Warned = true
	made := version{KeyID: "k2", CSR: []byte{1}, Kind: upstream.Renew}
	first := version{KeyID: "k1", CSR: []byte{1}, Kind: upstream.Register}
	sent := made
	sent.Sent = true
	issued := made
	issued.Chain = chain
	disbelieved := sent
	disbelieved.Refused = chain

	for _, tt := range []struct {
		name    string
		rec     record
		pending bool // one-time credentials are wanted and not there
		doubted bool // somebody was refused with Current
		want    step
		at      time.Time // checked for stepWait only
	}{
		{name: "first start", rec: record{}, want: stepReserve},
		{name: "crashed after reserve", rec: record{Next: version{KeyID: "k1"}}, want: stepMake},
		{name: "key made, waiting to be enrolled", rec: record{Next: first}, pending: true, want: stepWait, at: noon.Add(waitForOperator)},
		{name: "key made, enrolled", rec: record{Next: first}, want: stepSubmit},
		{name: "a renewal needs no enrolment", rec: record{Current: stale, Next: made}, pending: true, want: stepSubmit},
		{name: "crashed after sending", rec: record{Current: stale, Next: sent}, want: stepSubmit},
		{name: "issued", rec: record{Current: stale, Next: issued}, want: stepProve},
		{name: "proven", rec: record{Current: stale, Next: fresh}, want: stepPublish},
		{name: "fresh", rec: record{Current: fresh}, want: stepWait, at: after},
		{name: "renewal due", rec: record{Current: stale}, want: stepReserve},
		{name: "renewal due to the second", rec: record{Current: version{KeyID: "k1", RenewAt: noon, NotAfter: end}}, want: stepReserve},
		{name: "rotation due before renewal", rec: record{Current: version{KeyID: "k1", RenewAt: after, RotateAt: before, NotAfter: end}}, want: stepReserve},
		{name: "asked to renew", rec: record{Current: fresh, Asked: askedRenew}, want: stepReserve},
		{name: "the end is near", rec: record{Current: ending, RetryAt: after}, want: stepWarn},
		{name: "the end is near, and it was said", rec: record{Current: warned}, want: stepReserve},
		{name: "no wait goes past the moment to warn", rec: record{Current: version{KeyID: "k1", ReceivedAt: noon.Add(-7 * time.Hour), RenewAt: before, NotAfter: noon.Add(3 * time.Hour)}, RetryAt: noon.Add(2 * time.Hour)},
			want: stepWait, at: after},
		{name: "failed before the clock was set back", rec: record{Current: stale, ErrorAt: noon.Add(day), RetryAt: noon.Add(day + time.Hour)}, want: stepReserve},
		{name: "failed lately", rec: record{Current: stale, RetryAt: after}, want: stepWait, at: after},
		{name: "failed, wait over", rec: record{Current: stale, RetryAt: noon}, want: stepReserve},
		{name: "registration lost for good", rec: record{Next: first, Lost: "call the administrator"}, want: stepWait, at: noon.Add(waitForOperator)},
		{name: "rotation perhaps lost", rec: record{Current: stale, Next: version{KeyID: "k2", CSR: []byte{1}, Sent: true, Kind: upstream.Rotate}, Lost: "call", RetryAt: noon}, want: stepSubmit},
		{name: "old key in its grace", rec: record{Current: fresh, Old: []version{{KeyID: "k0", DropAt: noon.Add(time.Minute)}}}, want: stepWait, at: noon.Add(time.Minute)},
		{name: "old key's grace over", rec: record{Current: fresh, Old: []version{{KeyID: "k0", DropAt: noon}}}, want: stepRetire},
		{name: "in doubt", rec: record{Current: fresh}, doubted: true, want: stepCheck},
		{name: "in doubt, of nothing", rec: record{Next: first}, doubted: true, want: stepSubmit},
		{name: "in doubt, after a failure", rec: record{Current: fresh, RetryAt: after}, doubted: true, want: stepWait, at: after},
		{name: "in doubt, while it is being renewed", rec: record{Current: stale, Next: made}, doubted: true, want: stepCheck},
		{name: "in doubt, with a renewed one to try first", rec: record{Current: stale, Next: issued}, doubted: true, want: stepProve},
		{name: "in doubt, with no older one that works, and an answer to look at again", rec: record{Current: stale, Next: disbelieved, Failed: stepCheck}, doubted: true, want: stepSubmit},
		{name: "in doubt, with an answer that is not believed", rec: record{Current: stale, Next: disbelieved, Failed: stepSubmit}, doubted: true, want: stepCheck},
		{name: "in doubt, with one that works", rec: record{Current: stale, Next: fresh}, doubted: true, want: stepPublish},
		{name: "in doubt, before a rotation is sent", rec: record{Current: stale, Next: version{KeyID: "k2", CSR: []byte{1}, Kind: upstream.Rotate}}, doubted: true, want: stepCheck},
		{name: "in doubt, as a rotation may have revoked it", rec: record{Current: stale, Next: version{KeyID: "k2", CSR: []byte{1}, Sent: true, Kind: upstream.Rotate}}, doubted: true, want: stepSubmit},
		{name: "fallen back, the newer one is not asked for yet", rec: record{Current: stale, Fallback: fallback{Refused: "1", At: before, BackAt: after}}, want: stepWait, at: after},
		{name: "fallen back, the newer one is asked for", rec: record{Current: fresh, Fallback: fallback{Refused: "1", At: before, BackAt: noon}}, want: stepReserve},
		{name: "fallen back before the clock was set back", rec: record{Current: fresh, Fallback: fallback{Refused: "1", At: noon.Add(day), BackAt: noon.Add(day)}}, want: stepReserve},
		{name: "publishing comes before tidying", rec: record{Next: fresh, Old: []version{{KeyID: "k0", DropAt: before}}}, want: stepPublish},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, at := tt.rec.next(noon, circumstances{enrolled: !tt.pending, doubted: tt.doubted})
			if got != tt.want {
				t.Fatalf("step %v, want %v", got, tt.want)
			}
			if got == stepWait && !at.Equal(tt.at) {
				t.Errorf("until %v, want %v", at, tt.at)
			}
		})
	}
}

// What brings a try forward does not bring it before the issuer wants to be
// asked.
func TestHasten(t *testing.T) {
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ retry, holdOff, want time.Time }{
		{retry: noon},
		{retry: noon, holdOff: noon.Add(-time.Minute), want: noon.Add(-time.Minute)},
		{retry: noon, holdOff: noon, want: noon},
		{holdOff: noon}, // an operator has asked
	} {
		r := record{RetryAt: tt.retry, HoldOff: tt.holdOff}
		if r.hasten(); !r.RetryAt.Equal(tt.want) {
			t.Errorf("to be tried at %v, not before %v: %v, want %v", tt.retry, tt.holdOff, r.RetryAt, tt.want)
		}
	}
}

func TestOnlyWhatWentWellIsOver(t *testing.T) {
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		failed, well step
		over         bool
	}{
		{stepSubmit, stepSubmit, true}, {stepProve, stepProve, true}, {stepCheck, stepCheck, true}, {stepReserve, stepPublish, true},
		{stepSubmit, stepWarn, false}, {stepSubmit, stepCheck, false}, {stepProve, stepSubmit, false},
	} {
		r := record{Failures: 3, Failed: tt.failed, Error: "no", ErrorAt: at, RetryAt: at, Lost: "call"}
		if r.settled(tt.well); (r.Failures == 0) != tt.over || (r.Error == "") != tt.over {
			t.Errorf("%s failed, %s went well: over %v, want %v", tt.failed, tt.well, !tt.over, tt.over)
		}
		if kept := !r.RetryAt.IsZero() && r.Lost != ""; kept != (tt.well == stepWarn) {
			t.Errorf("%s failed, %s went well: wait or loss kept %v", tt.failed, tt.well, kept)
		}
	}
}

func TestRenewalIsDueAtTwoThirdsOrThirtyDaysAhead(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		life, want time.Duration
	}{
		{2 * time.Minute, 80 * time.Second},
		{24 * time.Hour, 16 * time.Hour},
		{30 * day, 20 * day},
		{45 * day, 45 * day * 13 / 30}, // 30 days ahead would be in its first third
		{80 * day, 50 * day},
		{90 * day, 60 * day},
		{365 * day, 365 * day * 2 / 3},
	} {
		if got := renewAt(start, start.Add(tt.life), 0).Sub(start); got != tt.want {
			t.Errorf("life %v: renewed after %v, want %v", tt.life, got, tt.want)
		}
		early := renewAt(start, start.Add(tt.life), 0.999).Sub(start)
		if early < tt.want-tt.life/10 || early < tt.life/3 {
			t.Errorf("life %v: the earliest host renews after %v", tt.life, early)
		}
	}
}

// A thousand hosts with one configuration: the busiest minute of the window in
// which they renew holds less than three times the mean.
func TestHostsSpreadTheirRenewals(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	const hosts = 1000
	life := 24 * time.Hour
	perMinute := map[int]int{}
	for i := range hosts {
		at := renewAt(start, start.Add(life), share(fmt.Sprintf("host%d.example", i), "web"))
		perMinute[int(at.Sub(start)/time.Minute)]++
	}
	mean := float64(hosts) / (float64(life/10) / float64(time.Minute))
	busiest := 0
	// The mean is 7 a minute; single minutes of so few scatter by chance alone,
	// so the bound is checked over every stretch of five minutes.
	for m := range int(life / time.Minute) {
		n := 0
		for k := range 5 {
			n += perMinute[m+k]
		}
		busiest = max(busiest, n)
	}
	if float64(busiest) >= 3*mean*5 {
		t.Errorf("busiest five minutes: %d renewals, mean %.1f", busiest, mean*5)
	}
	one := 0
	for _, n := range perMinute {
		one = max(one, n)
	}
	if float64(one) >= 3*mean {
		t.Errorf("busiest minute: %d renewals, mean %.1f", one, mean)
	}
}

// They also spread over a window that all of them wait for, whatever it is.
func TestHostsSpreadOverTheWindow(t *testing.T) {
	const hosts = 1000
	w, err := config.ParseWindow("Sun 02:00-04:00")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(90 * day)
	perMinute, busiest := map[time.Time]int{}, 0
	for i := range hosts {
		s := share(fmt.Sprintf("host%d.example", i), "web")
		c := circumstances{window: w, share: s}
		at, _ := c.plan(start.Add(60*day), end.Add(-18*day), start) // as if all were ripe at once
		if !w.Contains(at) {
			t.Fatalf("%v is not in the window", at)
		}
		minute := at.Truncate(time.Minute)
		perMinute[minute]++
		busiest = max(busiest, perMinute[minute])
	}
	if mean := hosts / 120.0; float64(busiest) >= 3*mean {
		t.Errorf("busiest minute: %d renewals, mean %.1f", busiest, mean)
	}
}

func TestJitterIsStable(t *testing.T) {
	if share("a", "web") != share("a", "web") || share("a", "web") == share("b", "web") || share("a", "web") == share("a", "db") {
		t.Error("share is not a function of host and item")
	}
}

func TestBackoffNeverZeroAndBounded(t *testing.T) {
	for n := 1; n < 100; n++ {
		for range 20 {
			if w := backoff(n, 0); w <= 0 || w > time.Hour {
				t.Fatalf("try %d: %v", n, w)
			}
			if w := backoff(n, 2*time.Minute); w <= 0 || w > 6*time.Second {
				t.Fatalf("try %d of a two-minute certificate: %v", n, w)
			}
		}
	}
}
