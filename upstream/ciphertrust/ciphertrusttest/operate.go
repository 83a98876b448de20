package ciphertrusttest

import (
	"fmt"
	"slices"
	"time"
)

// SetPassword changes a user's password as an administrator would: the refresh
// tokens of the user are over. The policy is not asked.
func (s *Server) SetPassword(username, password string) error {
	return s.operate(username, func(u *user, now time.Time) {
		u.setPassword(password, now)
		s.revokeTokensOf(u, now)
	})
}

// Lock locks a user out until Unlock, or until the time of the policy is over.
func (s *Server) Lock(username string) error {
	return s.operate(username, func(u *user, now time.Time) {
		for p := s.policyOf(u); u.Failed < len(p.Lockout) || u.Failed == 0; {
			u.fail(p, now)
		}
		u.LockedAt = &now
	})
}

// Unlock lets a locked user in again.
func (s *Server) Unlock(username string) error {
	return s.operate(username, func(u *user, _ time.Time) {
		u.Failed, u.FailedFirst, u.FailedLast, u.LockedAt = 0, nil, nil, nil
	})
}

// operate does something to a user of the root domain.
func (s *Server) operate(username string, do func(*user, time.Time)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.userByName(username, rootDomain)
	if u == nil {
		return fmt.Errorf("user %q: not found", username)
	}
	do(u, s.Clock.Now().UTC())
	return s.save()
}

// A Token is a refresh token as an operator sees it.
type Token struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	ClientID  string    `json:"client_id"`
	Labels    []string  `json:"labels"`
	CreatedAt time.Time `json:"created_at"`
	UsedAt    time.Time `json:"used_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // absolute; zero is never
	// Live is whether the token can still be used.
	Live bool `json:"live"`
}

// Tokens returns all refresh tokens that were issued and not deleted, oldest
// first.
func (s *Server) Tokens() []Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now().UTC()
	var list []Token
	for _, t := range s.state.Tokens {
		x := Token{
			ID: t.ID, ClientID: t.ClientID, Labels: slices.Clone(t.Labels), CreatedAt: t.CreatedAt, UsedAt: t.RefreshedAt,
			ExpiresAt: t.ExpiresAt, Live: !t.Revoked && !t.over(now),
		}
		if u := s.userByID(t.UserID); u != nil {
			x.Username = u.Username
		}
		list = append(list, x)
	}
	return list
}

// RevokeTokens revokes the refresh token of that id, or all if it is "", and
// returns how many there were to revoke.
func (s *Server) RevokeTokens(id string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, n := s.Clock.Now().UTC(), 0
	for _, t := range s.state.Tokens {
		if !t.Revoked && (id == "" || t.ID == id) {
			t.revoke(now)
			n++
		}
	}
	return n, s.save()
}

// AddSecrets adds secrets of the user admin.
func (s *Server) AddSecrets(secrets ...Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range secrets {
		if err := s.addSecret(x, s.Clock.Now().UTC()); err != nil {
			return err
		}
	}
	return s.save()
}

// RotateSecret adds a version to a secret of the root domain and returns its
// number.
func (s *Server) RotateSecret(name, material string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := s.state.Domains[0]
	for _, x := range root.Secrets {
		if x.Record.Name != name {
			continue
		}
		next, no := x.rotate(root, &material, s.Clock.Now().UTC())
		if no != nil {
			return 0, fmt.Errorf("secret %q: %s", name, no.desc)
		}
		return next.Record.Version, s.save()
	}
	return 0, fmt.Errorf("secret %q: not found", name)
}

// SetProperty sets a system property; it is checked as the API would.
func (s *Server) SetProperty(name, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range properties {
		if p.Name == name {
			if no := p.check(value); no != nil {
				return fmt.Errorf("property %s: %s", name, no.desc)
			}
			s.state.Properties[name] = value
			return s.save()
		}
	}
	return fmt.Errorf("property %q: not known", name)
}

// RootCA is the id of the local CA that was there at first.
func (s *Server) RootCA() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.state.Domains[0].LocalCAs {
		if x.Bootstrap {
			return x.Record.ID
		}
	}
	return ""
}
