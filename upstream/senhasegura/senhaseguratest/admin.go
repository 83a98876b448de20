package senhaseguratest

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A CredentialChange is what an administrator does to a credential. Fields that
// are nil stay as they are.
type CredentialChange struct {
	Password    *string                `json:"password"`
	RotateEvery *upstreamtest.Duration `json:"rotate_every"` // from now on; 0 ends it
	Exclusive   *bool                  `json:"exclusive"`
	Inactive    *bool                  `json:"inactive"`
}

// ChangeCredential changes the credential of that id, identifier or
// username@hostname.
func (s *Server) ChangeCredential(ref string, ch CredentialChange) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	c := s.credential(ref, now)
	if c == nil {
		return fmt.Errorf("credential %q: not found", ref)
	}
	if ch.RotateEvery != nil {
		every := time.Duration(*ch.RotateEvery)
		if every < 0 || every%time.Second != 0 {
			return fmt.Errorf("credential %q: rotate_every %v: want whole seconds", ref, every)
		}
		c.RotateEvery, c.Expires = *ch.RotateEvery, time.Time{}
	}
	if ch.Password != nil {
		c.Password, c.Changed = *ch.Password, now
		c.Changes++
	}
	if c.RotateEvery > 0 && (ch.Password != nil || ch.RotateEvery != nil) {
		c.Expires = next(now, time.Duration(c.RotateEvery))
	}
	set(&c.Exclusive, ch.Exclusive)
	set(&c.Inactive, ch.Inactive)
	return s.save()
}

// Credential returns the credential as it is now, to compare with what a client
// has. It is not a call of the web service: nothing is logged or taken into
// custody.
func (s *Server) Credential(ref string) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.credential(ref, s.Clock.Now()); c != nil {
		return *c, nil
	}
	return Credential{}, fmt.Errorf("credential %q: not found", ref)
}

// Login reports whether the password is the right one now: what the target
// system says that the credential is for.
func (s *Server) Login(ref, password string) bool {
	c, err := s.Credential(ref)
	return err == nil && !c.Inactive && subtle.ConstantTimeCompare([]byte(c.Password), []byte(password)) == 1
}

// credential finds a credential whoever asks, with due changes made. The caller
// holds mu.
func (s *Server) credential(ref string, now time.Time) *Credential {
	for _, c := range s.vault.Credentials {
		if c.named(ref) {
			c.settle(now, s.vault.Seed)
			return c
		}
	}
	return nil
}

// An AuthorizationChange is what an administrator does to an authorization.
// Fields that are nil stay as they are.
type AuthorizationChange struct {
	Inactive     *bool                  `json:"inactive"`
	ClientSecret *string                `json:"client_secret"`
	TokenLife    *upstreamtest.Duration `json:"token_life"`
	AllowedIPs   *[]string              `json:"allowed_ips"`
	Resources    *[]Resource            `json:"resources"`
	Fingerprint  *string                `json:"fingerprint"`
	// RevokeTokens ends all access tokens that are in force.
	RevokeTokens bool `json:"revoke_tokens"`
}

// ChangeAuthorization changes the authorization of that client id.
func (s *Server) ChangeAuthorization(clientID string, ch AuthorizationChange) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	auth := s.client(clientID)
	if auth == nil {
		return fmt.Errorf("authorization %q: not found", clientID)
	}
	set(&auth.Inactive, ch.Inactive)
	set(&auth.ClientSecret, ch.ClientSecret)
	set(&auth.TokenLife, ch.TokenLife)
	set(&auth.AllowedIPs, ch.AllowedIPs)
	set(&auth.Resources, ch.Resources)
	set(&auth.Fingerprint, ch.Fingerprint)
	if ch.RevokeTokens {
		for jti, t := range s.tokens {
			if t.clientID == clientID {
				delete(s.tokens, jti)
			}
		}
	}
	return s.save()
}

// An InfoChange is what an administrator does to an information.
type InfoChange struct {
	Content  *string `json:"content"`
	Inactive *bool   `json:"inactive"`
}

// ChangeInfo changes the information of that id or identifier.
func (s *Server) ChangeInfo(ref string, ch InfoChange) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.vault.Infos {
		if i.ID == ref || i.Tag == ref {
			set(&i.Content, ch.Content)
			set(&i.Inactive, ch.Inactive)
			return s.save()
		}
	}
	return fmt.Errorf("information %q: not found", ref)
}

// ChangeApplication replaces the secrets of an application.
func (s *Server) ChangeApplication(id string, secrets []AppSecret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.vault.Applications {
		if a.ID == id {
			a.Secrets = secrets
			return s.save()
		}
	}
	return fmt.Errorf("application %q: not found", id)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Control is the bench's control handler with the vault's own routes:
//
//	GET  /calls                        the API log
//	GET  /credentials/{ref}            a credential as it is now
//	PUT  /credentials/{ref}            a CredentialChange
//	POST /credentials/{ref}/login      {"password": P}: 204 if it is right, else 401
//	PUT  /authorizations/{client_id}   an AuthorizationChange
//	PUT  /infos/{ref}                  an InfoChange
//	PUT  /applications/{id}/secrets    the secrets of an application
func (s *Server) Control() *http.ServeMux {
	mux := s.Bench.Control()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { upstreamtest.Reply(w, s.Calls()) })
	mux.HandleFunc("GET /credentials/{ref}", func(w http.ResponseWriter, r *http.Request) {
		c, err := s.Credential(r.PathValue("ref"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		upstreamtest.Reply(w, c)
	})
	mux.HandleFunc("POST /credentials/{ref}/login", func(w http.ResponseWriter, r *http.Request) {
		var with struct {
			Password string `json:"password"`
		}
		if !upstreamtest.Decode(w, r, &with) {
			return
		}
		if !s.Login(r.PathValue("ref"), with.Password) {
			http.Error(w, "wrong password", http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("PUT /credentials/{ref}", changing("ref", s.ChangeCredential))
	mux.HandleFunc("PUT /authorizations/{client_id}", changing("client_id", s.ChangeAuthorization))
	mux.HandleFunc("PUT /infos/{ref}", changing("ref", s.ChangeInfo))
	mux.HandleFunc("PUT /applications/{id}/secrets", changing("id", s.ChangeApplication))
	return mux
}

// changing makes a route of one of the changes.
func changing[T any](name string, change func(string, T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var ch T
		if !upstreamtest.Decode(w, r, &ch) {
			return
		}
		if err := change(r.PathValue(name), ch); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// AccessKey is the client id and secret of the first authorization, as an
// administrator sees them on the screen.
func (s *Server) AccessKey() (clientID, clientSecret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.vault.Authorizations) == 0 {
		return "", ""
	}
	first := s.vault.Authorizations[0]
	return first.ClientID, first.ClientSecret
}
