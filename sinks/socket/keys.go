package socket

import (
	"context"
	"encoding/base64"
	"strconv"

	"github.com/signet-agent/signet/internal/access"
)

func (q *request) listKeys() error {
	q.list("key.list")
	keys, err := q.s.cfg.Backend.Keys(func(name string) bool {
		return q.s.cfg.Policy.Decide(q.peer, access.Action{Kind: access.Key, Name: name, Op: "read"}).Allowed
	})
	if err != nil {
		return err
	}
	if keys == nil {
		keys = []KeyInfo{} // a list, if an empty one
	}
	return q.sendJSON(struct {
		Keys []KeyInfo `json:"keys"`
	}{keys})
}

func (q *request) getKey() error {
	if err := q.authorize("key.read", access.Action{Kind: access.Key, Name: q.name, Op: "read"}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), callTimeout)
	defer cancel()
	q.within(callTimeout)
	k, err := q.s.cfg.Backend.Key(ctx, q.name)
	if err != nil {
		return err
	}
	return q.sendJSON(k)
}

// signBody is the body of a request to sign.
type signBody struct {
	Hash       string `json:"hash"`
	Padding    string `json:"padding"`
	Digest     string `json:"digest"`  // base64
	Message    string `json:"message"` // base64
	Generation int    `json:"generation"`
}

// hashSizes are the hashes that are signed, with the length of their digests.
var hashSizes = map[string]int{"SHA-256": 32, "SHA-384": 48, "SHA-512": 64}

// request checks what can be checked without the key.
func (b signBody) request() (SignRequest, error) {
	r := SignRequest{Hash: b.Hash, Padding: b.Padding, Generation: b.Generation}
	var err error
	if r.Digest, err = base64.StdEncoding.DecodeString(b.Digest); err != nil {
		return r, invalid("digest is not base64")
	}
	if r.Message, err = base64.StdEncoding.DecodeString(b.Message); err != nil {
		return r, invalid("message is not base64")
	}
	if b.Generation < 0 {
		return r, invalid("generation is negative")
	}
	if b.Padding != "" && b.Padding != "pkcs1v15" && b.Padding != "pss" {
		return r, invalid("padding is neither pkcs1v15 nor pss")
	}
	if b.Message != "" {
		if b.Digest != "" || b.Hash != "" || b.Padding != "" {
			return r, invalid("message goes without hash, padding and digest")
		}
		return r, nil
	}
	if b.Hash == "" && b.Digest == "" {
		return r, invalid("there is nothing to sign: give hash and digest, or for an Ed25519 key a message that is not empty")
	}
	size, ok := hashSizes[b.Hash]
	if !ok {
		return r, invalid("hash is not one of SHA-256, SHA-384 and SHA-512")
	}
	if len(r.Digest) != size {
		return r, invalid("digest has " + strconv.Itoa(len(r.Digest)) + " bytes, not the " + strconv.Itoa(size) + " of " + b.Hash)
	}
	return r, nil
}

func (q *request) sign() error {
	if err := q.authorize("key.sign", access.Action{Kind: access.Key, Name: q.name, Op: "sign"}); err != nil {
		return err
	}
	var body signBody
	if err := q.decode(&body); err != nil {
		return err
	}
	req, err := body.request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), callTimeout)
	defer cancel()
	q.within(callTimeout)
	signature, generation, err := q.s.cfg.Backend.Sign(ctx, q.name, req)
	if err != nil {
		return err
	}
	return q.sendJSON(struct {
		Signature  []byte `json:"signature"`
		Generation int    `json:"generation"`
	}{signature, generation})
}

func (q *request) getToken() error {
	if err := q.authorize("token.read", access.Action{Kind: access.Token, Name: q.name}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), callTimeout)
	defer cancel()
	q.within(callTimeout)
	tok, err := q.s.cfg.Backend.Token(ctx, q.name)
	if err != nil {
		return err
	}
	if tok.AccessToken == "" {
		return &Problem{Code: CodeUnavailable, Detail: "upstream " + strconv.Quote(q.name) + " gave an empty access token"}
	}
	answer := struct {
		AccessToken string  `json:"access_token"`
		TokenType   string  `json:"token_type"`
		ExpiresAt   *string `json:"expires_at"`
	}{AccessToken: tok.AccessToken, TokenType: tok.Type()}
	if !tok.Expiry.IsZero() {
		at := stamp(tok.Expiry)
		answer.ExpiresAt = &at
	}
	return q.sendJSON(answer)
}
