package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		in   string
		want time.Duration // -1 for a fault
	}{
		{"90s", 90 * time.Second}, {"12h", 12 * time.Hour}, {"30d", 30 * day},
		{"1d12h", 36 * time.Hour}, {"1.5d", 36 * time.Hour}, {"3s", 3 * time.Second},
		{"0", 0}, {"0d", 0}, {"250ms", 250 * time.Millisecond},
		{"", -1}, {"d", -1}, {"90", -1}, {"1y", -1}, {"1h1d", -1}, {"1d1d", -1},
		{"1d-1h", -1}, {"999999999d", -1}, {"106751d23h48m", -1}, {" 1h", -1}, {"one day", -1}, {"NaNd", -1},
	} {
		got, err := ParseDuration(tt.in)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%q: %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(day, hour, minute int) time.Time { // 2 June 2030 is a Sunday
		return time.Date(2030, 6, 2+day, hour, minute, 0, 0, time.UTC)
	}
	for _, tt := range []struct {
		name, window string
		now          time.Time
		in           bool
		next         time.Time
	}{
		{"before", "Sun 02:00-04:00", at(0, 1, 59), false, at(0, 2, 0)},
		{"at the start", "Sun 02:00-04:00", at(0, 2, 0), true, at(0, 2, 0)},
		{"at the end", "Sun 02:00-04:00", at(0, 4, 0), false, at(7, 2, 0)},
		{"in the week", "sunday 02:00-04:00", at(3, 12, 0), false, at(7, 2, 0)},
		{"over midnight, evening", "Sat 23:00-01:00", at(6, 23, 30), true, at(6, 23, 30)},
		{"over midnight, morning", "Sat 23:00-01:00", at(7, 0, 30), true, at(7, 0, 30)},
		{"over midnight, wrong morning", "Sat 23:00-01:00", at(6, 0, 30), false, at(6, 23, 0)},
		{"range of days", "Mon-Fri 22:00-23:00", at(5, 23, 0), false, at(8, 22, 0)},
		{"range around the week", "Sat-Mon 22:00-24:00", at(0, 23, 59), true, at(0, 23, 59)},
		{"list of days", "Tue,Thu 01:00-02:00", at(2, 2, 0), false, at(4, 1, 0)},
		{"every day", "03:00-04:00", at(0, 5, 0), false, at(1, 3, 0)},
		{"no window", "", at(0, 5, 0), false, at(0, 5, 0)},
	} {
		var w Window
		if tt.window != "" {
			var err error
			if w, err = ParseWindow(tt.window); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.Contains(tt.now); got != tt.in {
			t.Errorf("%s: contains %v, want %v", tt.name, got, tt.in)
		}
		if got := w.Next(tt.now); !got.Equal(tt.next) {
			t.Errorf("%s: next %v, want %v", tt.name, got, tt.next)
		}
	}
	for _, bad := range []string{"", "Sun", "Sun 2-4", "Sun 02:00", "Sun 02:00-02:00", "Foo 02:00-04:00", "Sun 02:00-25:00", "Sun Mon 02:00-04:00", "Sun- 02:00-04:00"} {
		if w, err := ParseWindow(bad); err == nil {
			t.Errorf("%q: accepted as %v", bad, w)
		}
	}
}
