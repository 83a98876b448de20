package senhaseguratest

import (
	"slices"
	"strconv"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// kept is how many calls the API log keeps.
const kept = 10_000

// A Call is one line of the product's report "API logs", with its columns.
type Call struct {
	ID              int                   `json:"id"`
	ClientID        string                `json:"client_id"`
	Client          string                `json:"client"`
	AuthorizationID string                `json:"authorization_id"`
	Authorization   string                `json:"authorization"`
	IP              string                `json:"ip"`
	Resource        string                `json:"resource"`
	Event           string                `json:"event"`
	Method          string                `json:"method"`
	Status          int                   `json:"status"`
	URL             string                `json:"url"` // without its query, which may hold secrets
	Error           string                `json:"error"`
	Time            upstreamtest.Duration `json:"time"`
	DateTime        time.Time             `json:"date_time"`
}

// who fills in the columns about the caller.
func (c *Call) who(a *Authorization) {
	id := strconv.Itoa(a.ID)
	c.ClientID, c.Client = a.ClientID, a.Client
	c.AuthorizationID, c.Authorization = id, "Authorization "+id
}

func (s *Server) record(c *Call) {
	s.last++
	c.ID = s.last
	if len(s.calls) == kept {
		s.calls = slices.Delete(s.calls, 0, kept/10)
	}
	s.calls = append(s.calls, *c)
}

// Calls returns the last calls that reached the product, oldest first. Calls
// that a fault answered did not; those are in the bench's Log only.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}
