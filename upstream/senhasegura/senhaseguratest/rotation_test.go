package senhaseguratest

import (
	"encoding/json"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// noon is a time at which simulators are started that rotate.
var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// rotating starts a simulator at noon that changes credential 5 every 20 s.
func rotating(t *testing.T, state string) *Server {
	t.Helper()
	bench := &upstreamtest.Bench{}
	bench.Clock.Set(noon.Add(300 * time.Millisecond))
	s, err := New(Config{Bench: bench, Vault: Examples(clientID, password), State: state})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeCredential("5", CredentialChange{RotateEvery: new(upstreamtest.Duration(20 * time.Second))}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) now(t *testing.T) Credential {
	t.Helper()
	c, err := s.Credential("robot-test-5")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestThePasswordChangesAtItsExpirationTime(t *testing.T) {
	s := rotating(t, "")
	first := s.now(t)
	if first.Password != "secret@2504" || !first.Expires.Equal(noon.Add(20*time.Second)) {
		t.Fatalf("at first: %q until %v, want the manual's until 20 s past", first.Password, first.Expires)
	}
	s.Clock.Set(first.Expires.Add(-100 * time.Millisecond))
	if got := s.now(t); got.Password != first.Password {
		t.Error("changed too early")
	}
	s.Clock.Set(first.Expires)
	second := s.now(t)
	if second.Password == first.Password || second.Changes != 1 || !second.Changed.Equal(first.Expires) {
		t.Errorf("at expiration_time: %d changes, last at %v; want 1, then", second.Changes, second.Changed)
	}
	if want := noon.Add(40 * time.Second); !second.Expires.Equal(want) {
		t.Errorf("next change %v, want %v", second.Expires, want)
	}
}

func TestThePasswordChangesWhileNobodyAsks(t *testing.T) {
	asked, alone := rotating(t, ""), rotating(t, "")
	alone.vault.Seed = asked.vault.Seed
	for i := range 50 {
		asked.Clock.Set(noon.Add(time.Duration(i) * 7 * time.Second))
		asked.now(t)
	}
	at := noon.Add(347 * time.Second)
	asked.Clock.Set(at)
	alone.Clock.Set(at)
	if diff := cmp.Diff(alone.now(t), asked.now(t)); diff != "" {
		t.Errorf("it matters whether anybody asks (-alone +asked):\n%s", diff)
	}
	if got := alone.now(t).Changes; got != 17 {
		t.Errorf("%d changes in 347 s, want 17", got)
	}
}

func TestTheVaultSurvivesARestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "vault.json")
	s := rotating(t, state)
	if err := s.ChangeInfo("INFOID5", InfoChange{Content: new("new content")}); err != nil {
		t.Fatal(err)
	}
	bench := &upstreamtest.Bench{}
	bench.Clock.Set(noon.Add(65 * time.Second))
	again, err := New(Config{Bench: bench, Vault: Examples("another", "one"), State: state})
	if err != nil {
		t.Fatal(err)
	}
	s.Clock.Set(noon.Add(65 * time.Second))
	if diff := cmp.Diff(again.now(t), s.now(t)); diff != "" {
		t.Errorf("credential (-again +before):\n%s", diff)
	}
	if got := again.vault.Infos[0].Content; got != "new content" {
		t.Errorf("information %q, want the changed one", got)
	}
	if again.client(clientID) == nil {
		t.Error("the authorization is gone")
	}
}

func TestAnAdministratorsChangesCountAtOnce(t *testing.T) {
	s := rotating(t, "")
	s.Clock.Set(noon.Add(7 * time.Second))
	if err := s.ChangeCredential("robot-test-5", CredentialChange{Password: new("by hand")}); err != nil {
		t.Fatal(err)
	}
	if got := s.now(t); got.Password != "by hand" || !got.Expires.Equal(noon.Add(27*time.Second)) {
		t.Errorf("got %q until %v, want a full interval from the change", got.Password, got.Expires)
	}
	if !s.Login("5", "by hand") || s.Login("5", "secret@2504") {
		t.Error("the target system does not take the new password alone")
	}
	for _, bad := range []upstreamtest.Duration{-1, upstreamtest.Duration(1500 * time.Millisecond)} {
		if s.ChangeCredential("5", CredentialChange{RotateEvery: &bad}) == nil {
			t.Errorf("an interval of %v was taken", time.Duration(bad))
		}
	}
	if err := s.ChangeCredential("5", CredentialChange{RotateEvery: new(upstreamtest.Duration(0))}); err != nil {
		t.Fatal(err)
	}
	s.Clock.Advance(time.Hour)
	if got := s.now(t); got.Password != "by hand" || !got.Expires.IsZero() {
		t.Errorf("without rotation: %q until %v, want no change and no time", got.Password, got.Expires)
	}
}

func TestCustodyKeepsOthersOut(t *testing.T) {
	c := start(t, func(cfg *Config) {
		second := *cfg.Vault.Authorizations[0]
		second.ID, second.ClientID = 7, "second"
		cfg.Vault.Authorizations = append(cfg.Vault.Authorizations, &second)
		cfg.Vault.Credentials[0].Exclusive = true
	})
	first := c.login()
	_, body := c.do("POST", "/iso/oauth2/token", "grant_type=client_credentials&client_id=second&client_secret="+password, "Content-Type", form)
	var tok struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &tok); err != nil {
		t.Fatal(err)
	}
	second := "Bearer " + tok.AccessToken
	step := func(what, method, path, token string, want int) string {
		t.Helper()
		status, body := c.do(method, path, "", "Authorization", token)
		if status != want {
			t.Errorf("%s: status %d, want %d: %s", what, status, want, body)
		}
		return body
	}
	const read, release = "/iso/pam/credential/5", "/iso/pam/credential/custody/5"
	step("first reads", "GET", read, first, 200)
	step("first reads again", "GET", read, first, 200)
	body = step("second reads", "GET", read, second, 400)
	c.want(400, body, 400, refused("400", "1009", "1009: No access to credential"))
	step("second releases what it has not", "DELETE", release, second, 400)
	step("first releases", "DELETE", release, first, 200)
	step("second reads now", "GET", read, second, 200)
	step("first is out", "GET", read, first, 400)
	if err := c.sim.ChangeCredential("5", CredentialChange{Exclusive: new(false)}); err != nil {
		t.Fatal(err)
	}
	step("simultaneous viewing", "GET", read, first, 200)
	if err := c.sim.ChangeCredential("5", CredentialChange{Inactive: new(true)}); err != nil {
		t.Fatal(err)
	}
	body = step("deactivated", "GET", read, first, 400)
	c.want(400, body, 400, refused("400", "1007", "1007: Credential not found"))
}

func TestInactiveInformation(t *testing.T) {
	c := start(t, func(cfg *Config) { cfg.Vault.Infos[0].Inactive = true })
	status, body := c.get("/iso/pam/info/20", c.login())
	c.want(status, body, 400, refused("400", "1024", "1024: Inactive information"))
}

func TestTheAPILogHasTheReportsColumns(t *testing.T) {
	c := start(t, nil)
	c.sim.Clock.Set(noon)
	c.get("/iso/pam/credential/7?oauth_token=hidden", c.login())
	calls := c.sim.Calls()
	if len(calls) != 2 {
		t.Fatalf("%d calls, want 2", len(calls))
	}
	got := calls[1]
	if got.Time <= 0 || got.DateTime.Sub(noon) > time.Minute {
		t.Errorf("took %v at %v", time.Duration(got.Time), got.DateTime)
	}
	got.Time, got.DateTime = 0, time.Time{}
	want := Call{
		ID: 2, ClientID: clientID, Client: "postman", AuthorizationID: "6", Authorization: "Authorization 6", IP: "127.0.0.1",
		Resource: "PAM", Event: "Query credential", Method: "GET", Status: 400, URL: "/iso/pam/credential/7", Error: "1007: Credential not found",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("call (-got +want):\n%s", diff)
	}
	text, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{password, "hidden", "secret@2504", "Bearer"} {
		if strings.Contains(string(text), hidden) {
			t.Errorf("the log shows %q", hidden)
		}
	}
}

func TestFaultsAreTheOperators(t *testing.T) {
	c := start(t, nil)
	token := c.login()
	c.sim.Faults.Add(upstreamtest.Fault{Kind: upstreamtest.FaultStatus, Status: 429, RetryAfter: "3", Path: "/iso/pam/*", Count: 1})
	if status, _ := c.get("/iso/pam/credential/5", token); status != 429 {
		t.Errorf("status %d, want 429", status)
	}
	if status, _ := c.get("/iso/pam/credential/5", token); status != 200 {
		t.Errorf("status %d after the fault, want 200", status)
	}
}

func TestControl(t *testing.T) {
	s := rotating(t, "")
	mux := s.Control()
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/credentials/5", `{"password": "by hand"}`, 204},
		{"POST", "/credentials/5/login", `{"password": "by hand"}`, 204},
		{"POST", "/credentials/5/login", `{"password": "other"}`, 401},
		{"PUT", "/credentials/5", `{"rotate_every": "5s"}`, 204},
		{"PUT", "/credentials/5", `{"rotate": "5s"}`, 400},
		{"PUT", "/credentials/9", `{"inactive": true}`, 400},
		{"GET", "/credentials/9", ``, 404},
		{"GET", "/credentials/5", ``, 200},
		{"PUT", "/authorizations/" + clientID, `{"inactive": true, "revoke_tokens": true}`, 204},
		{"PUT", "/infos/INFOID5", `{"inactive": true}`, 204},
		{"PUT", "/applications/5/secrets", `[{"secret_id": "1", "identity": "x", "data": [{"K": "V"}]}]`, 204},
		{"GET", "/calls", ``, 200},
		{"PUT", "/clock", `{"advance": "1h"}`, 200},
	} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
		if rec.Code != tt.status {
			t.Errorf("%s %s %s: status %d, want %d: %s", tt.method, tt.path, tt.body, rec.Code, tt.status, rec.Body)
		}
	}
	if got := s.now(t); time.Duration(got.RotateEvery) != 5*time.Second {
		t.Errorf("rotates every %v, want 5s", time.Duration(got.RotateEvery))
	}
	if !s.vault.Authorizations[0].Inactive || !s.vault.Infos[0].Inactive || s.vault.Applications[0].Secrets[0].Identity != "x" {
		t.Error("a change did not arrive")
	}
}
