package agent

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-agent/signet/internal/access"
)

// Who may not know of an item does not find its name in the metrics, whatever
// label has it.
func TestMetricsHideWhatACallerMayNotKnow(t *testing.T) {
	m := newMetrics()
	stale := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "signet_secret_stale"}, []string{"secret"})
	m.registry.MustRegister(stale)
	for _, name := range []string{"mine", "theirs"} {
		stale.WithLabelValues(name).Set(1)
		m.renewalFailures.WithLabelValues(name).Inc()
		m.reloads.WithLabelValues(name, "ok").Inc()
		m.upstreamRequest(name)("200")
	}
	m.hsmOperation("sign", 0, errors.New("x"))
	scrape := func(kinds ...access.Kind) string {
		rec := httptest.NewRecorder()
		m.handlerFor(func(k access.Kind, name string) bool {
			return slices.Contains(kinds, k) && (k == access.Admin || name == "mine")
		}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return rec.Body.String()
	}
	got := scrape(access.Secret, access.Key, access.Token)
	for _, want := range []string{`signet_secret_stale{secret="mine"}`, `signet_renewal_failures_total{certificate="mine"}`, `signet_upstream_requests_total{code="200",upstream="mine"}`, `signet_hsm_operations_seconds_count{operation="sign"}`} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if strings.Contains(got, "theirs") || strings.Contains(got, "signet_reloads_total") {
		t.Errorf("tells too much:\n%s", got)
	}
	if all := scrape(access.Admin); strings.Count(all, "theirs") != 4 {
		t.Errorf("administrators see %d of 4:\n%s", strings.Count(all, "theirs"), all)
	}
}
