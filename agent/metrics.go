package agent

import (
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// metrics are what Prometheus sees. Counters are counted where things happen;
// what has a state is read from the agent when it is scraped.
type metrics struct {
	registry         *prometheus.Registry
	upstreamRequests *prometheus.CounterVec   // upstream, code
	renewalFailures  *prometheus.CounterVec   // certificate
	hsmOperations    *prometheus.HistogramVec // operation
	socketRequests   *prometheus.CounterVec   // route, code
	reloads          *prometheus.CounterVec   // consumer, outcome
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		upstreamRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_upstream_requests_total", Help: "Requests to an upstream, by HTTP status or, without one, by error code."}, []string{"upstream", "code"}),
		renewalFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_renewal_failures_total", Help: "Steps of a certificate's renewal that failed."}, []string{"certificate"}),
		hsmOperations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "signet_hsm_operations_seconds", Help: "Time that calls into the HSM took.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 10)}, []string{"operation"}),
		socketRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_socket_requests_total", Help: "Requests on the agent's socket."}, []string{"route", "code"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_reloads_total", Help: "Reloads of consumers."}, []string{"consumer", "outcome"}),
	}
	m.registry.MustRegister(m.upstreamRequests, m.renewalFailures, m.hsmOperations, m.socketRequests, m.reloads,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// labelKinds are the labels that name an item, and as what a caller has to be
// allowed to know of it. plainLabels name none. Metrics with any other label are
// for administrators.
var (
	labelKinds = map[string][]access.Kind{
		"secret":      {access.Secret},
		"certificate": {access.Certificate, access.Key},
		"upstream":    {access.Proxy, access.Token},
	}
	plainLabels = []string{"action", "code", "operation", "outcome", "route", "version"}
)

// handlerFor is a handler for a caller who may know of what visible says.
func (m *metrics) handlerFor(visible socket.Visible) http.Handler {
	if visible(access.Admin, "") {
		return m.handler()
	}
	return promhttp.HandlerFor(prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := m.registry.Gather()
		for _, f := range families {
			f.Metric = slices.DeleteFunc(f.Metric, func(one *dto.Metric) bool { return hidden(one, visible) })
		}
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.Metric) == 0 }), err
	}), promhttp.HandlerOpts{})
}

// hidden reports whether a metric names an item that must not be known.
func hidden(m *dto.Metric, visible socket.Visible) bool {
	return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool {
		seen := slices.ContainsFunc(labelKinds[l.GetName()], func(k access.Kind) bool { return visible(k, l.GetValue()) })
		return !seen && !slices.Contains(plainLabels, l.GetName())
	})
}

func (m *metrics) hsmOperation(operation string, d time.Duration, _ error) {
	m.hsmOperations.WithLabelValues(operation).Observe(d.Seconds())
}

func (m *metrics) upstreamRequest(upstream string) func(code string) {
	return func(code string) { m.upstreamRequests.WithLabelValues(upstream, code).Inc() }
}

// A stateCollector reads gauges from the agent at each scrape, so that none of
// them can fall behind what is so.
type stateCollector struct {
	agent *Agent
	freshUntil, stale, notAfter, generation, nextAction, failures, provenAt, reloadFailures,
	fallback, hsmOpen, hsmSessions, restarts, runway, audit *prometheus.Desc
}

func newStateCollector(a *Agent) *stateCollector {
	return &stateCollector{agent: a,
		freshUntil:     prometheus.NewDesc("signet_secret_fresh_until_seconds", "Unix time until which a secret is fresh.", []string{"secret"}, nil),
		stale:          prometheus.NewDesc("signet_secret_stale", "1 if a secret is served stale or not at all.", []string{"secret"}, nil),
		notAfter:       prometheus.NewDesc("signet_certificate_not_after_seconds", "Unix time at which the certificate in use ends.", []string{"certificate"}, nil),
		generation:     prometheus.NewDesc("signet_certificate_generation", "Generation of the key of the certificate in use.", []string{"certificate"}, nil),
		nextAction:     prometheus.NewDesc("signet_certificate_next_action_seconds", "Unix time at which something is done about a certificate next.", []string{"certificate", "action"}, nil),
		failures:       prometheus.NewDesc("signet_certificate_failures", "Steps that failed in a row.", []string{"certificate"}, nil),
		provenAt:       prometheus.NewDesc("signet_consumer_proven_at_seconds", "Unix time at which a consumer was last seen to serve its certificate.", []string{"consumer"}, nil),
		reloadFailures: prometheus.NewDesc("signet_consumer_failures", "Tries in a row that did not make a consumer take up its files; it has the previous ones.", []string{"consumer"}, nil),
		fallback:       prometheus.NewDesc("signet_certificate_fallback", "1 if an older certificate is in use because a newer one is refused.", []string{"certificate"}, nil),
		hsmOpen:        prometheus.NewDesc("signet_hsm_open", "1 if the token is open.", []string{"hsm"}, nil),
		hsmSessions:    prometheus.NewDesc("signet_hsm_sessions", "Signatures that can be under way at once on the token.", []string{"hsm"}, nil),
		restarts:       prometheus.NewDesc("signet_hsm_restarts_total", "Times that the HSM worker was started anew.", nil, nil),
		audit:          prometheus.NewDesc("signet_audit_failing", "1 if accesses cannot be recorded.", nil, nil),
		runway:         prometheus.NewDesc("signet_runway_seconds", "How long everything still works if every upstream stopped now.", nil, nil),
	}
}

// Describe is for prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.freshUntil, c.stale, c.notAfter, c.generation, c.nextAction, c.failures, c.provenAt, c.reloadFailures, c.fallback, c.hsmOpen, c.hsmSessions, c.restarts, c.runway, c.audit} {
		ch <- d
	}
}

// Collect is for prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	s := c.agent.status(now)
	for _, it := range s.Items {
		switch it.Kind {
		case "secret":
			gauge(c.freshUntil, seconds(it.FreshUntil), it.Name)
			stale := 0.0
			if it.State != stateFresh {
				stale = 1
			}
			gauge(c.stale, stale, it.Name)
		case "consumer":
			gauge(c.reloadFailures, float64(it.Failures), it.Name)
			if !it.ProvenAt.IsZero() {
				gauge(c.provenAt, seconds(it.ProvenAt), it.Name)
			}
		case "certificate", "identity":
			gauge(c.notAfter, seconds(it.NotAfter), it.Name)
			gauge(c.generation, float64(it.Generation), it.Name)
			gauge(c.nextAction, seconds(it.NextAt), it.Name, it.NextAction)
			gauge(c.failures, float64(it.Failures), it.Name)
			fallback := 0.0
			if it.Refused != "" {
				fallback = 1
			}
			gauge(c.fallback, fallback, it.Name)
		}
	}
	restarts := 0
	for _, h := range s.HSM {
		restarts += h.Restarts
		open := 0.0
		if h.Open {
			open = 1
		}
		gauge(c.hsmOpen, open, h.Name)
		gauge(c.hsmSessions, float64(c.agent.tokens[h.Name].Status().Sessions), h.Name)
	}
	ch <- prometheus.MustNewConstMetric(c.restarts, prometheus.CounterValue, float64(restarts))
	gauge(c.runway, s.Runway.Seconds)
	failing := 0.0
	if c.agent.audit.Err() != nil {
		failing = 1
	}
	gauge(c.audit, failing)
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
