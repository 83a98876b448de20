package managertest

import "fmt"

// maxEvents is how many events the Manager keeps.
const maxEvents = 1000

// event is one entry of the Manager's event log, as it is on the wire.
type event struct {
	ID         int64  `json:"id"`
	Time       int64  `json:"time"`
	Type       string `json:"type"`
	AccountID  int64  `json:"accountId"`
	Message    string `json:"message"`
	Expiration int64  `json:"expiration"`
}

// notice raises the event for each newest certificate that has come within a
// month of its end. s.mu is held.
func (s *Server) notice(c *call) {
	for _, a := range s.state.Accounts {
		cur := a.current()
		if cur == nil || cur.Noticed || c.now.After(cur.NotAfter) || cur.NotAfter.Sub(c.now) > window {
			continue
		}
		cur.Noticed = true
		s.state.LastEvent++
		s.state.Events = append(s.state.Events, event{
			ID: s.state.LastEvent, Time: c.now.UnixMilli(), Type: "certificateExpiring", AccountID: a.ID,
			Message:    fmt.Sprintf("The certificate of account %s expires within one month", a.Name),
			Expiration: cur.NotAfter.UnixMilli(),
		})
		c.changed = true
	}
	if n := len(s.state.Events) - maxEvents; n > 0 {
		s.state.Events = s.state.Events[n:]
	}
}

func (s *Server) listEvents(c *call) (any, *refusal) {
	id, no := c.id("accountId")
	if no != nil {
		return nil, no
	}
	switch a := s.find(id); {
	case a == nil:
		return nil, &refusal{422, "accountId", "The given account id is invalid", "notfound"}
	case c.account != nil && c.account.Private && a != c.account:
		return nil, &refusal{403, "accountId", "The account is not the caller's", "forbidden"}
	}
	s.notice(c)
	list := []event{}
	for _, e := range s.state.Events {
		if e.AccountID == id {
			list = append(list, e)
		}
	}
	return map[string]any{"events": list}, nil
}
