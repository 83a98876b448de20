package ciphertrusttest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"testing"
)

func TestKeysLiveAsTheProductsDo(t *testing.T) {
	a := start(t, Config{}).admin()
	k := a.want(201, "POST", "/vault/keys2", `{"name":"app","algorithm":"aes","size":256,"usageMask":12}`)
	if k["algorithm"] != "aes" || k["size"] != 256.0 || k["state"] != "Active" || k["objectType"] != "Symmetric Key" || k["version"] != 0.0 || k["material"] != nil || k["neverExported"] != true {
		t.Errorf("key %v", k)
	}
	a.refused(409, 11, "NCERRKeyAlreadyExists", "POST", "/vault/keys2", `{"name":"app"}`)
	if same := a.want(201, "POST", "/vault/keys2?returnExisting=true", `{"name":"app"}`); same["id"] != k["id"] {
		t.Errorf("existing: %v", same)
	}
	for _, bad := range []string{`{"algorithm":"rot13"}`, `{"algorithm":"aes","size":100}`, `{"algorithm":"ec","curveid":"x"}`, `{"algorithm":"aes","material":"x"}`, `{"algorithm":"aes","colour":"red"}`} {
		a.refused(400, 9, badValue, "POST", "/vault/keys2", bad)
	}
	exported := a.want(200, "POST", "/vault/keys2/app/export?type=name", `{"encoding":"hex"}`)
	if raw, err := hex.DecodeString(exported.text("material")); err != nil || len(raw) != 32 {
		t.Errorf("material %v", exported["material"])
	}
	if got := a.want(200, "GET", "/vault/keys2/app", ""); got["neverExported"] != false {
		t.Errorf("after the export: %v", got)
	}
	next := a.want(201, "POST", "/vault/keys2/app/versions/", "")
	if next["version"] != 1.0 || next["id"] == k["id"] || next["usageMask"] != 12.0 {
		t.Errorf("next version %v", next)
	}
	for query, want := range map[string]int{"name=app": 2, "name=app&version=-1": 1, "algorithm=AES": 2, "state=Active": 2, "size=128": 0, "usageMask=12": 2} {
		if got := a.want(200, "GET", "/vault/keys2?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	a.refused(400, 9, badValue, "POST", "/vault/keys2/app/revoke", `{"reason":"keyCompromise"}`)
	if got := a.want(200, "POST", "/vault/keys2/app/revoke", `{"reason":"Superseded","message":"m"}`); got["state"] != "Deactivated" || got["revocationReason"] != "Superseded" {
		t.Errorf("revoked: %v", got)
	}
	if got := a.want(200, "POST", "/vault/keys2/app/reactivate", `{"reason":"DeactivatedToActive"}`); got["state"] != "Active" {
		t.Errorf("reactivated: %v", got)
	}
	a.want(200, "POST", "/vault/keys2/app/archive", "")
	a.refused(409, 11, "NCERRConflict", "POST", "/vault/keys2/app/archive", "")
	a.want(200, "POST", "/vault/keys2/app/recover", "")
	a.want(201, "POST", "/vault/keys2/app/clone", `{"newKeyName":"copy"}`)
	if got := a.want(200, "POST", "/vault/keys2/app/revoke", `{"reason":"KeyCompromise"}`); got["state"] != "Compromised" {
		t.Errorf("compromised: %v", got)
	}
	if got := a.want(200, "POST", "/vault/keys2/app/destroy", ""); got["state"] != "Destroyed Compromised" {
		t.Errorf("destroyed: %v", got)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/vault/keys2/app/export", "")
	a.want(204, "DELETE", "/vault/keys2/copy", "")
	if got := a.want(200, "GET", "/vault/random?bytes=8", ""); len(got.text("bytes")) != 12 {
		t.Errorf("random %v", got)
	}
}

func TestCryptoWantsAnAcceptHeader(t *testing.T) {
	a := start(t, Config{}).admin()
	a.want(201, "POST", "/vault/keys2", `{"name":"app"}`)
	body := `{"id":"app","plaintext":"aGVsbG8=","mode":"gcm","aad":"YQ=="}`
	resp, text := a.send("POST", base+"/crypto/encrypt", "application/json", body, "Accept", "")
	if resp.StatusCode != 400 || !matches(text, `"code":15,`) {
		t.Errorf("without Accept: HTTP %d %s", resp.StatusCode, text)
	}
	out := a.want(200, "POST", "/crypto/encrypt", body)
	if !out.has("id", "version", "iv", "tag", "ciphertext", "mode") {
		t.Errorf("encrypted: %v", out)
	}
	a.want(201, "POST", "/vault/keys2/app/versions", "") // the version in the answer still decrypts
	out["aad"] = "YQ=="
	if got := a.want(200, "POST", "/crypto/decrypt", js(out)); got["plaintext"] != "aGVsbG8=" {
		t.Errorf("decrypted: %v", got)
	}
	out["aad"] = "Yg=="
	a.refused(400, 106, "NCERRCryptoOperationFailed", "POST", "/crypto/decrypt", js(out))
}

func TestKeyPairsSign(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	c := start(t, Config{StateFile: file})
	c.admin().want(201, "POST", "/vault/keys2", `{"name":"signer","algorithm":"ec","curveid":"prime256v1"}`)
	a := start(t, Config{StateFile: file}).admin() // as it comes back
	k := a.want(200, "GET", "/vault/keys2/signer", "")
	sum := sha256.Sum256([]byte("hello"))
	resp, text := a.send("POST", base+"/crypto/sign?keyName=signer&signAlgo=ECDSA&hashAlgo=none", "application/octet-stream", string(sum[:]))
	if resp.StatusCode != 200 {
		t.Fatalf("HTTP %d %s", resp.StatusCode, text)
	}
	block, _ := pem.Decode([]byte(k.text("publickey")))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var out object
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	sig, err := hex.DecodeString(out.text("data"))
	if err != nil || !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], sig) {
		t.Errorf("signature %s: %v", text, err)
	}
	csr, no := parseCSR(a.want(200, "POST", "/vault/csr", `{"csrParams":{"cn":"host1"},"keyID":"signer","keyIDType":"name"}`).text("csr"))
	if no != nil || !pub.(*ecdsa.PublicKey).Equal(csr.PublicKey) {
		t.Errorf("CSR of the key: %v", no)
	}
	a.want(200, "POST", "/vault/csr", `{"csrParams":{"cn":"host1"},"keyGenParams":{"algorithm":"EC","keyName":"made"}}`)
	a.want(200, "GET", "/vault/keys2/made", "")
	a.refused(400, 9, badValue, "POST", "/vault/csr", `{"csrParams":{"cn":"host1"}}`)
}
