package senhaseguratest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

const tokenPath = "/iso/oauth2/token" // #nosec G101 -- a path

// token answers the OAuth 2.0 token endpoint: client credentials, either in a
// Basic header or as fields of the body.
func (s *Server) token(call *Call, r *http.Request, now time.Time) answer {
	if r.Method != http.MethodPost {
		return gateway()
	}
	form, err := body(r)
	if err != nil || r.URL.RawQuery != "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "The request is malformed")
	}
	id, password, why := clientOf(r, form)
	switch {
	case why == "malformed":
		return gateway()
	case why != "":
		return oauthError(http.StatusBadRequest, "invalid_request", why)
	}
	auth := s.client(id)
	if auth == nil || subtle.ConstantTimeCompare([]byte(auth.ClientSecret), []byte(password)) != 1 {
		return oauthError(http.StatusUnauthorized, "invalid_client", "Client authentication failed")
	}
	call.who(auth)
	if a, ok := s.admit(auth, r, now); !ok {
		return a
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "grant_type is missing")
	default:
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "The grant type is not supported")
	}
	access, life, err := s.issue(auth, now)
	if err != nil {
		return failure(http.StatusInternalServerError, 0, "Unexpected error")
	}
	return answer{http: http.StatusOK, bare: struct {
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
		AccessToken string `json:"access_token"`
	}{"Bearer", int(life / time.Second), access}}
}

// body reads the fields of a request, each at most once, from a form or JSON.
func body(r *http.Request) (url.Values, error) {
	form := url.Values{}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media == "application/json" {
		var m map[string]string
		if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<16)).Decode(&m); err != nil {
			return nil, err
		}
		for k, v := range m {
			form.Set(k, v)
		}
		return form, nil
	}
	form, err := upstreamtest.Form(r)
	if err != nil {
		return nil, err
	}
	for name, v := range form {
		if len(v) > 1 {
			return nil, fmt.Errorf("%s: given twice", name)
		}
	}
	return form, nil
}

// clientOf finds the client's id and secret, or says why it cannot.
func clientOf(r *http.Request, form url.Values) (id, password, why string) {
	headers := r.Header.Values("Authorization")
	inForm := form.Has("client_id") || form.Has("client_secret")
	switch {
	case len(headers) == 0 && !inForm, len(headers) > 1:
		return "", "", "malformed"
	case len(headers) == 0:
		return form.Get("client_id"), form.Get("client_secret"), ""
	case inForm:
		return "", "", "Only one way to authenticate may be used"
	}
	user, pass, ok := r.BasicAuth()
	if !ok {
		return "", "", "malformed"
	}
	// RFC 6749, 2.3.1: both are form-encoded before they go into the header.
	id, err1 := url.QueryUnescape(user)
	password, err2 := url.QueryUnescape(pass)
	if err1 != nil || err2 != nil {
		return "", "", "malformed"
	}
	return id, password, ""
}

// client finds an authorization by its client id.
func (s *Server) client(id string) *Authorization {
	for _, a := range s.vault.Authorizations {
		if a.ClientID == id {
			return a
		}
	}
	return nil
}

// A header and claims are the two halves of an access token.
type header struct {
	Typ string `json:"typ"`
	Alg string `json:"alg"`
	JTI string `json:"jti"`
}

type claims struct {
	Aud    string   `json:"aud"`
	JTI    string   `json:"jti"`
	IAT    int64    `json:"iat"`
	NBF    int64    `json:"nbf"`
	Exp    int64    `json:"exp"`
	Sub    string   `json:"sub"`
	Scopes []string `json:"scopes"`
}

// A grant is an access token that was given out.
type grant struct {
	clientID string
	end      time.Time
}

// issue makes an access token: a JWT signed with RS256.
func (s *Server) issue(auth *Authorization, now time.Time) (access string, life time.Duration, err error) {
	life = time.Duration(auth.TokenLife)
	if life < time.Second {
		life = time.Hour
	}
	for jti, t := range s.tokens {
		if !now.Before(t.end) {
			delete(s.tokens, jti)
		}
	}
	random := make([]byte, 40)
	_, _ = rand.Read(random) // never fails
	jti := hex.EncodeToString(random)
	c := claims{
		Aud: auth.ClientID, JTI: jti, IAT: now.Unix(), NBF: now.Unix(), Exp: now.Add(life).Unix(),
		Sub: base64.StdEncoding.EncodeToString([]byte(auth.Client)), Scopes: []string{},
	}
	h, err := json.Marshal(header{"JWT", "RS256", jti})
	if err != nil {
		return "", 0, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", 0, err
	}
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", 0, err
	}
	s.tokens[jti] = grant{auth.ClientID, time.Unix(c.Exp, 0)}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), life, nil
}

// holder finds the authorization that an access token was given to, or says why
// the token is not good.
func (s *Server) holder(access string, now time.Time) (auth *Authorization, why string) {
	const bad = "Invalid access token"
	parts := strings.Split(access, ".")
	if len(parts) != 3 {
		return nil, bad
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return nil, bad
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&s.key.PublicKey, crypto.SHA256, sum[:], sig) != nil {
		return nil, bad
	}
	// What is signed is what issue wrote, so it can be read without suspicion.
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, bad
	}
	var c claims
	if json.Unmarshal(b, &c) != nil {
		return nil, bad
	}
	if now.Unix() < c.NBF || now.Unix() >= c.Exp {
		return nil, "Access token expired"
	}
	if _, inForce := s.tokens[c.JTI]; !inForce {
		return nil, "Access token revoked"
	}
	if auth = s.client(c.Aud); auth == nil {
		return nil, bad
	}
	return auth, ""
}
