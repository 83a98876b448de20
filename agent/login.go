package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/sinks/socket"
	"github.com/signet-agent/signet/upstream"
	"github.com/signet-agent/signet/upstream/ciphertrust"
)

// kindLogin is what the sealed refresh tokens of logins are kept under.
const kindLogin = "login"

// A loginKeeper keeps the login at one upstream in the store, sealed.
type loginKeeper struct {
	a    *Agent
	name string // of the upstream
}

// Load is for ciphertrust.Keeper. A login that cannot be opened is as good as
// none; one that cannot be read yet is an error.
func (k loginKeeper) Load() ([]byte, error) {
	if !k.a.isOpen() {
		return nil, errSealed
	}
	blob, err := k.a.store.Record(kindLogin, k.name)
	if blob == nil || err != nil {
		return nil, err
	}
	plain, err := k.a.refresher.sealer.open(k.sealedAs(), blob)
	if err != nil {
		k.a.log.Error("kept login not used; somebody may have to log in", "upstream", k.name, "err", err)
		return nil, nil
	}
	return plain, nil
}

// Save is for ciphertrust.Keeper.
func (k loginKeeper) Save(plain []byte) error {
	if !k.a.isOpen() {
		return errSealed
	}
	return k.a.store.SaveRecord(kindLogin, k.name, k.a.refresher.sealer.seal(k.sealedAs(), plain))
}

func (k loginKeeper) sealedAs() string { return fmt.Sprintf("login %q", k.name) }

// errSealed is why nothing can be logged in to before the HSM is there.
var errSealed = &refusal{socket.CodeUnavailable, "the data key is not unwrapped yet; logins are kept with it"}

// newCipherTrust makes the login at a CipherTrust Manager and the client that
// uses it.
func (a *Agent) newCipherTrust(s *service) {
	auth := s.cfg.Auth
	cfg := ciphertrust.LoginConfig{
		HTTP: s.http, Keeper: loginKeeper{a, s.name}, URL: s.cfg.URL, Host: a.host, Grant: auth.Grant,
		Username: auth.Username, Connection: auth.Connection, Domain: s.cfg.Domain, AuthDomain: auth.AuthDomain, ClientID: auth.ClientID,
		Life: auth.RefreshLifetime(), Idle: auth.RefreshIdle(), Log: a.log,
		OnToken: a.onTokenOf(s),
	}
	if !auth.Password.IsZero() {
		cfg.Password = auth.Password.Read
	}
	if auth.Grant == config.GrantRefreshToken {
		cfg.RefreshToken = auth.RefreshToken.Read
	}
	s.login = ciphertrust.NewLogin(cfg)
	s.tokens = s.login.Tokens()
	s.ciphertrust = ciphertrust.New(ciphertrust.Config{HTTP: s.http, Tokens: s.tokens})
}

// onTokenOf is onToken of a service that items wait for when nobody is logged in:
// the first access token after that brings them.
func (a *Agent) onTokenOf(s *service) func(*oauth2.Token) {
	tell := a.onToken(s.name)
	return func(t *oauth2.Token) {
		tell(t)
		a.resume(s, false)
	}
}

// resume tries at once what an upstream has not given for want of an access
// token, or of an identity: it has come. With all it tries whatever has failed,
// as that may have been for who we were before; a token endpoint that comes and
// goes must not have everything tried each time (failures T12, T18).
func (a *Agent) resume(s *service, all bool) {
	a.refresher.hurry(s.name, all)
	for _, r := range s.rotators {
		if snap := r.snap.Load(); all || snap != nil && snap.NoToken {
			r.poke()
		}
	}
}

// wantsToken reports whether a call was not made for want of an access token.
func wantsToken(err error) bool {
	_, ok := errors.AsType[*upstream.NoToken](err)
	return ok
}

// holdOff is how long an upstream asks to be left alone. What it asks of those
// who want a token is over when there is one.
func holdOff(err error) time.Duration {
	if e, ok := errors.AsType[*upstream.Error](err); ok && !wantsToken(err) {
		return e.RetryAfter
	}
	return 0
}

// loginItem adds to the state of an access token how the login behind it
// stands.
func (s *service) loginItem(it *Item) {
	st := s.login.Status()
	it.NotAfter = st.Until
	switch {
	case st.Out:
		it.State, it.NextAction = stateWaiting, "login"
		it.Hint = fmt.Sprintf("somebody has logged out; run `signet login %s`", s.name)
	case st.Waiting:
		it.State, it.NextAction = stateWaiting, "login"
		it.Hint = fmt.Sprintf("run `signet login %s`", s.name)
	case st.Capped > 0:
		it.Hint = "the server lets a login last " + ciphertrust.Span(st.Capped) + " at most, which is less than refresh_token_lifetime"
	}
}

// session is the upstream of that name, if it is one to log in to.
func (b backend) session(name string) (*service, error) {
	s, ok := b.services[name]
	switch {
	case !ok:
		return nil, &refusal{socket.CodeNotFound, fmt.Sprintf("no upstream %q is configured", name)}
	case s.login == nil:
		return nil, &refusal{socket.CodeInvalid, fmt.Sprintf("the agent logs in to a %s upstream by itself; there is no session to begin or end", s.cfg.Type)}
	case !b.isOpen():
		return nil, errSealed
	}
	return s, nil
}

// Login is for socket.Backend. What has waited for the login, or was refused to
// the user of before, is tried with the token that it brings.
func (b backend) Login(ctx context.Context, name string, r socket.LoginRequest) (socket.LoginResult, error) {
	s, err := b.session(name)
	if err != nil {
		return socket.LoginResult{}, problem(err)
	}
	got, err := s.login.Login(ctx, ciphertrust.LoginRequest{
		Username: r.Username, Password: r.Password, Life: r.Life, URL: r.URL,
		RefreshToken: r.RefreshToken, ClientID: r.ClientID, Share: r.Share,
	})
	if err != nil {
		return socket.LoginResult{}, problem(err)
	}
	b.resume(s, true)
	return socket.LoginResult{
		Username: got.Username, URL: got.URL, Until: got.Until, RefreshToken: got.RefreshToken, ClientID: got.ClientID,
	}, nil
}

// Logout is for socket.Backend.
func (b backend) Logout(ctx context.Context, name string) error {
	s, err := b.session(name)
	if err != nil {
		return problem(err)
	}
	return problem(s.login.Logout(ctx))
}
