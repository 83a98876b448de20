package config

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a length of time that may have been left out, which is not the
// same as `0s`.
type Duration struct {
	time.Duration
	Set bool
}

// Or is the duration, or def if it was left out.
func (d Duration) Or(def time.Duration) time.Duration {
	if !d.Set {
		return def
	}
	return d.Duration
}

// ParseDuration reads what time.ParseDuration does, and days besides: "90s",
// "12h", "30d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; write it like 90s, 12h or 30d", s)
	var days time.Duration
	if n, rest, ok := strings.Cut(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		if err != nil || strings.ContainsAny(n, "hmsnuµ") {
			return 0, bad
		}
		if days = d * 24; days/24 != d {
			return 0, fmt.Errorf("%q is too long", s)
		}
		if rest == "" {
			return days, nil
		}
		if s = rest; s[0] == '-' || s[0] == '+' {
			return 0, bad
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, bad
	}
	if sum := days + d; (sum < days) == (d < 0) {
		return sum, nil
	}
	return 0, fmt.Errorf("%q is too long", s)
}

// Window is a time of the week in the host's time zone, such as
// "Sun 02:00-04:00", "Mon-Fri 22:00-06:00" or "03:00-04:00" for every day.
type Window struct {
	// Days are those on which it opens; all false in the zero Window only.
	Days [7]bool
	// Start and End count from midnight. An End that is not after Start is on
	// the next day.
	Start, End time.Duration
}

// IsZero reports that there is no window: any time is as good.
func (w Window) IsZero() bool { return w == Window{} }

// ParseWindow reads a Window.
func ParseWindow(s string) (Window, error) {
	bad := fmt.Errorf("%q is not a window; write it like \"Sun 02:00-04:00\" or \"Mon-Fri 22:00-06:00\"", s)
	var w Window
	words := strings.Fields(s)
	switch len(words) {
	case 1:
		w.Days = [7]bool{true, true, true, true, true, true, true}
	case 2:
		if !w.parseDays(words[0]) {
			return Window{}, bad
		}
	default:
		return Window{}, bad
	}
	start, end, ok := strings.Cut(words[len(words)-1], "-")
	var err1, err2 error
	w.Start, err1 = parseClock(start)
	w.End, err2 = parseClock(end)
	if !ok || err1 != nil || err2 != nil || w.Start == w.End {
		return Window{}, bad
	}
	return w, nil
}

// parseDays reads "Sun", "Sat,Sun" or "Mon-Fri".
func (w *Window) parseDays(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, ok1 := weekday(from)
		last, ok2 := weekday(to)
		if !ok1 || !ok2 {
			return false
		}
		for d := first; ; d = (d + 1) % 7 {
			w.Days[d] = true
			if d == last {
				break
			}
		}
	}
	return true
}

func weekday(s string) (int, bool) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if strings.EqualFold(s, d.String()) || strings.EqualFold(s, d.String()[:3]) {
			return int(d), true
		}
	}
	return 0, false
}

func parseClock(s string) (time.Duration, error) {
	if s == "24:00" {
		return 24 * time.Hour, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, err
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// Contains reports whether t lies in the window.
func (w Window) Contains(t time.Time) bool {
	start, end := w.around(t)
	return !t.Before(start) && t.Before(end)
}

// Next is the first moment at or after t that lies in the window; t itself if
// there is no window.
func (w Window) Next(t time.Time) time.Time {
	if w.IsZero() {
		return t
	}
	if start, end := w.around(t); !t.Before(start) && t.Before(end) {
		return t
	}
	for i := range 8 {
		if start, _ := w.on(t, i); w.Days[start.Weekday()] && !start.Before(t) {
			return start
		}
	}
	return t
}

// Opening is the opening that t lies in, or else the first one after t.
func (w Window) Opening(t time.Time) (start, end time.Time) {
	next := w.Next(t)
	if start, end = w.around(next); start.IsZero() {
		return next, next
	}
	return start, end
}

// around is the opening that t lies in, or one that it does not lie in.
func (w Window) around(t time.Time) (start, end time.Time) {
	for _, day := range []int{-1, 0} {
		s, e := w.on(t, day)
		if w.Days[(int(t.Weekday())+day+7)%7] && !t.Before(s) && t.Before(e) {
			return s, e
		}
	}
	return time.Time{}, time.Time{}
}

// on is the opening on the day that is so many days from t's. It goes by the
// clock on the wall, so it is an hour off in length when that is changed.
func (w Window) on(t time.Time, day int) (start, end time.Time) {
	y, m, d := t.Date()
	at := func(day int, clock time.Duration) time.Time {
		return time.Date(y, m, d+day, int(clock.Hours()), int(clock.Minutes())%60, 0, 0, t.Location())
	}
	if w.End <= w.Start {
		return at(day, w.Start), at(day+1, w.End)
	}
	return at(day, w.Start), at(day, w.End)
}
