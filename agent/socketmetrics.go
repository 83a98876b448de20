package agent

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// An answerCounter counts answers on the socket. It keeps the counters at hand:
// looking one up by its labels takes longer than much of an answer.
type answerCounter struct {
	vec   *prometheus.CounterVec // route, code
	known sync.Map               // of prometheus.Counter by answered
}

type answered struct {
	route  string
	status int
}

func (c *answerCounter) count(route string, status int, _ time.Duration) {
	key := answered{route, status}
	n, ok := c.known.Load(key)
	if !ok {
		n, _ = c.known.LoadOrStore(key, c.vec.WithLabelValues(route, strconv.Itoa(status)))
	}
	n.(prometheus.Counter).Inc()
}
