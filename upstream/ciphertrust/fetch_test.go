package ciphertrust

import (
	"strings"
	"testing"
	"time"

	"github.com/signet-agent/signet/upstream"
)

// What is delivered, until when, and what is no value at all.
func TestFetch(t *testing.T) {
	soon, later := time.Now().Add(time.Hour).UTC().Truncate(time.Second), time.Now().Add(48*time.Hour).UTC()
	for _, tt := range []struct {
		name, record string
		value        string
		expires      time.Time
		code         upstream.Code
	}{
		{"plain", `{"name":"s","version":3,"state":"Active","dataType":"password","material":"pw"}`, "pw", time.Time{}, ""},
		{"blob", `{"name":"s","version":3,"state":"Active","dataType":"blob","material":"__4_"}`, "\xff\xfe?", time.Time{}, ""},
		{"padded blob", `{"name":"s","version":3,"state":"Active","dataType":"blob","material":"_w=="}`, "\xff", time.Time{}, ""},
		{"seed", `{"name":"s","version":3,"state":"Active","dataType":"seed","material":"00ff"}`, "\x00\xff", time.Time{}, ""},
		{"rotation known", `{"name":"s","version":3,"state":"Active","material":"pw","rotationDate":"SOON","deactivationDate":"LATER"}`, "pw", soon, ""},
		{"deactivation first", `{"name":"s","version":3,"state":"Active","material":"pw","rotationDate":"LATER","deactivationDate":"SOON"}`, "pw", soon, ""},
		{"rotation overdue", `{"name":"s","version":3,"state":"Active","material":"pw","rotationDate":"2001-01-01T00:00:00Z"}`, "pw", time.Time{}, ""},
		{"dates unset", `{"name":"s","version":3,"state":"Active","material":"pw","rotationDate":"0001-01-01T00:00:00Z"}`, "pw", time.Time{}, ""},

		{"deactivated", `{"name":"s","state":"Deactivated","material":"pw"}`, "", time.Time{}, upstream.Denied},
		{"not active yet", `{"name":"s","state":"Pre-Active","material":"pw"}`, "", time.Time{}, upstream.Denied},
		{"compromised", `{"name":"s","state":"Compromised","material":"pw"}`, "", time.Time{}, upstream.Denied},
		{"destroyed", `{"name":"s","state":"Destroyed"}`, "", time.Time{}, upstream.NotFound},
		{"destroyed after a compromise", `{"name":"s","state":"Destroyed Compromised"}`, "", time.Time{}, upstream.NotFound},
		{"deactivation past", `{"name":"s","state":"Active","material":"pw","deactivationDate":"2001-01-01T00:00:00Z"}`, "", time.Time{}, upstream.Denied},
		{"empty", `{"name":"s","state":"Active","material":""}`, "", time.Time{}, upstream.Unavailable},
		{"another", `{"name":"t","state":"Active","material":"pw"}`, "", time.Time{}, upstream.Unavailable},
		{"broken seed", `{"name":"s","state":"Active","dataType":"seed","material":"pw"}`, "", time.Time{}, upstream.Unavailable},
		{"broken blob", `{"name":"s","state":"Active","dataType":"blob","material":"+/"}`, "", time.Time{}, upstream.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			record := strings.NewReplacer("SOON", soon.Format(time.RFC3339), "LATER", later.Format(time.RFC3339)).Replace(tt.record)
			c, _ := golden(t, 200, nil, record)
			got, err := c.Fetch(t.Context(), "s")
			if tt.code != "" {
				if upstream.CodeOf(err) != tt.code || strings.Contains(err.Error(), "pw") {
					t.Errorf("%v, want %s", err, tt.code)
				}
				return
			}
			if err != nil || string(got.Fields["value"].Reveal()) != tt.value || got.Version != "3" || !got.Expires.Equal(tt.expires) {
				t.Errorf("%q %+v, %v", got.Fields["value"].Reveal(), got, err)
			}
		})
	}
}
