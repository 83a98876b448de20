package ciphertrusttest

import (
	"net/http"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// Control adds to the control handler of every simulator:
//
//	POST   /users               {"username","password","groups",...}: a user
//	PUT    /users/{name}        {"password"} or {"locked"}
//	GET    /tokens              all refresh tokens, but for their texts
//	DELETE /tokens              revokes all of them; DELETE /tokens/{id}: that one
//	POST   /secrets             {"name","dataType","material","groups"}: a secret
//	PUT    /secrets/{name}      {"material"}: another version; answers {"version"}
//	PUT    /properties/{name}   {"value"}
//	PUT    /mistakes            ["other-key", ...]: what is wrong with the next certificates
//	GET    /crl/{ca}            revocation list of a local CA in PEM, as {"crl"}
//	GET    /records             the product's audit records
func (s *Server) Control() *http.ServeMux {
	mux := s.Bench.Control()
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			ID, Username, Password, Name, Email string
			Groups                              []string
			SubjectDN                           string   `json:"certificate_subject_dn"`
			AuthMethods                         []string `json:"allowed_auth_methods"`
		}
		if upstreamtest.Decode(w, r, &in) {
			done(w, s.AddUsers(User(in)))
		}
	})
	mux.HandleFunc("PUT /users/{name}", s.controlUser)
	mux.HandleFunc("GET /tokens", func(w http.ResponseWriter, _ *http.Request) { upstreamtest.Reply(w, s.Tokens()) })
	revoke := func(w http.ResponseWriter, r *http.Request) {
		n, err := s.RevokeTokens(r.PathValue("id"))
		answer(w, map[string]int{"revoked": n}, err)
	}
	mux.HandleFunc("DELETE /tokens", revoke)
	mux.HandleFunc("DELETE /tokens/{id}", revoke)
	mux.HandleFunc("POST /secrets", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Name     string
			DataType string `json:"dataType"`
			Material string
			Groups   []string
		}
		if upstreamtest.Decode(w, r, &in) {
			done(w, s.AddSecrets(Secret(in)))
		}
	})
	mux.HandleFunc("PUT /secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Material string }
		if upstreamtest.Decode(w, r, &in) {
			n, err := s.RotateSecret(r.PathValue("name"), in.Material)
			answer(w, map[string]int{"version": n}, err)
		}
	})
	mux.HandleFunc("PUT /properties/{name}", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Value string }
		if upstreamtest.Decode(w, r, &in) {
			done(w, s.SetProperty(r.PathValue("name"), in.Value))
		}
	})
	mux.HandleFunc("PUT /mistakes", func(w http.ResponseWriter, r *http.Request) {
		var list []Mistake
		if upstreamtest.Decode(w, r, &list) {
			answer(w, list, s.Mistake(list...))
		}
	})
	mux.HandleFunc("GET /crl/{ca}", func(w http.ResponseWriter, r *http.Request) {
		crl, err := s.CRL(r.PathValue("ca"))
		answer(w, map[string]string{"crl": string(crl)}, err)
	})
	mux.HandleFunc("GET /records", func(w http.ResponseWriter, _ *http.Request) { upstreamtest.Reply(w, s.Records()) })
	return mux
}

func (s *Server) controlUser(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Password *string
		Locked   *bool
	}
	if !upstreamtest.Decode(w, r, &in) {
		return
	}
	name := r.PathValue("name")
	switch {
	case in.Password != nil && in.Locked == nil:
		done(w, s.SetPassword(name, *in.Password))
	case in.Locked != nil && in.Password == nil && *in.Locked:
		done(w, s.Lock(name))
	case in.Locked != nil && in.Password == nil:
		done(w, s.Unlock(name))
	default:
		http.Error(w, "user: want one of password and locked", http.StatusBadRequest)
	}
}

// answer answers data, or what went wrong.
func answer(w http.ResponseWriter, data any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	upstreamtest.Reply(w, data)
}

func done(w http.ResponseWriter, err error) { answer(w, struct{}{}, err) }
