package ciphertrust

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/signet-agent/signet/internal/secret"
)

// A Keeper keeps what a Login must not forget: one small text that holds a
// refresh token and is to be sealed. Save returns when it is durable; Load
// returns nil before the first Save.
type Keeper interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// A refreshToken is one of the server's, with what is needed to revoke it.
type refreshToken struct {
	Token    secret.Value
	ID       string // at the server, for its list; "" if it did not say
	ClientID string
}

func (t refreshToken) exists() bool { return len(t.Token.Reveal()) > 0 }

// A session is everything that is remembered about the login at one server. It
// is on disk before each step that cannot be taken back.
type session struct {
	Agent    string // marks the tokens of this agent in the server's list; made once
	URL      string // of the server that it is for: a token is sent nowhere else
	For      string // the username of the configuration when it began
	Username string
	Domain   string

	Token refreshToken
	Since time.Time // of the login
	Until time.Time // when the token's absolute life ends; zero if that is not known
	Idle  time.Duration
	// Shared says that another program has the same token, so that it must not
	// be renewed.
	Shared bool
	// Out says that somebody has logged out. Nobody but a person logs in again.
	Out bool
	// Unsure says that a login was tried whose outcome is not known: there may
	// be a token with our label that we do not have.
	Unsure bool
	// Old are tokens that were replaced and are yet to be revoked.
	Old []refreshToken
	// Cap is the longest life that the server gave as its limit; 0 is none.
	Cap time.Duration
	// Seed is the digest of a token that came from a file, so that a new one in
	// the file is noticed.
	Seed []byte
}

// keptToken and kept are how tokens and sessions lie in the Keeper's seal.
type keptToken struct {
	Token    []byte `json:"token"`
	ID       string `json:"id,omitempty"`
	ClientID string `json:"client_id,omitempty"`
}

type kept struct {
	Agent    string        `json:"agent"`
	URL      string        `json:"url"`
	For      string        `json:"for,omitempty"`
	Username string        `json:"username,omitempty"`
	Domain   string        `json:"domain,omitempty"`
	Token    keptToken     `json:"token"`
	Since    time.Time     `json:"since,omitzero"`
	Until    time.Time     `json:"until,omitzero"`
	Idle     time.Duration `json:"idle,omitempty"`
	Shared   bool          `json:"shared,omitempty"`
	Out      bool          `json:"out,omitempty"`
	Unsure   bool          `json:"unsure,omitempty"`
	Old      []keptToken   `json:"old,omitempty"`
	Cap      time.Duration `json:"cap,omitempty"`
	Seed     []byte        `json:"seed,omitempty"`
}

func (t refreshToken) kept() keptToken { return keptToken{t.Token.Reveal(), t.ID, t.ClientID} }

func (k keptToken) token() refreshToken {
	t := refreshToken{ID: k.ID, ClientID: k.ClientID}
	if len(k.Token) > 0 {
		t.Token = secret.New(k.Token)
	}
	return t
}

func (s session) marshal() ([]byte, error) {
	k := kept{
		Agent: s.Agent, URL: s.URL, For: s.For, Username: s.Username, Domain: s.Domain, Token: s.Token.kept(), Since: s.Since, Until: s.Until,
		Idle: s.Idle, Shared: s.Shared, Out: s.Out, Unsure: s.Unsure, Cap: s.Cap, Seed: s.Seed,
	}
	for _, t := range s.Old {
		k.Old = append(k.Old, t.kept())
	}
	return json.Marshal(k)
}

func unmarshalSession(text []byte) (session, error) {
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return session{}, fmt.Errorf("kept login: not as this version writes it")
	}
	s := session{
		Agent: k.Agent, URL: k.URL, For: k.For, Username: k.Username, Domain: k.Domain, Token: k.Token.token(), Since: k.Since, Until: k.Until,
		Idle: k.Idle, Shared: k.Shared, Out: k.Out, Unsure: k.Unsure, Cap: k.Cap, Seed: k.Seed,
	}
	for _, t := range k.Old {
		s.Old = append(s.Old, t.token())
	}
	return s, nil
}
