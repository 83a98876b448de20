package ciphertrusttest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestManualsSecretExample(t *testing.T) {
	a := start(t, Config{}).admin()
	out := a.want(201, "POST", "/vault/secrets", `{"name":"mypass","dataType":"password","material":"123456"}`)
	if !out.has("id", "uri", "account", "createdAt", "updatedAt", "name", "version", "dataType", "objectType", "state",
		"activationDate", "meta", "undeletable", "unexportable", "sha1Fingerprint", "sha256Fingerprint", "labels") {
		t.Errorf("fields of %v", out)
	}
	for name, want := range map[string]any{
		"uri": "kylo:kylo:vault:secrets:mypass-v0", "account": accountURI, "name": "mypass", "version": 0.0, "dataType": "password",
		"objectType": "Secret Data", "state": "Active", "undeletable": false, "unexportable": false,
		"sha256Fingerprint": fmt.Sprintf("%X", sha256.Sum256([]byte("123456"))),
	} {
		if out[name] != want {
			t.Errorf("%s is %v, want %v", name, out[name], want)
		}
	}
	exported := a.want(200, "POST", "/vault/secrets/mypass/export?type=name", "")
	if exported["material"] != "123456" || len(exported) != len(out)+1 {
		t.Errorf("export %v", exported)
	}
	got := a.want(200, "GET", "/vault/secrets/mypass?type=name", "")
	if js(got) != js(out) {
		t.Errorf("read %v, created %v", got, out)
	}
	a.refused(409, 11, "NCERRKeyAlreadyExists", "POST", "/vault/secrets", `{"name":"mypass","dataType":"password","material":"x"}`)
	if same := a.want(201, "POST", "/vault/secrets?returnExisting=true", `{"name":"mypass","dataType":"password","material":"x"}`); same["id"] != out["id"] {
		t.Errorf("existing: %v", same)
	}
	a.refused(404, 16, "NCERRResourceNotFound", "POST", "/vault/secrets/nothing/export?type=name", "")
}

func TestSecretTypesAndTheirMaterial(t *testing.T) {
	a := start(t, Config{}).admin()
	for body, want := range map[string]int{
		`{"material":"aGVsbG8_"}`: 201, `{"dataType":"blob","material":"aGVsbG8/"}`: 400, `{"dataType":"blob"}`: 400,
		`{"dataType":"seed","material":"0aFF"}`: 201, `{"dataType":"seed","material":"xyz"}`: 400, `{"dataType":"seed"}`: 201,
		`{"dataType":"password","material":"p\u00e4ss"}`: 201, `{"dataType":"password"}`: 201, `{"dataType":"password","material":""}`: 400,
		`{"dataType":"key","material":"x"}`: 400, `{"dataType":"password","material":"x","colour":"red"}`: 400,
		`{"dataType":"password","material":5}`: 400, `{"dataType":"password","material":"x","rotationFrequencyDays":5}`: 400,
		`{"dataType":"password","material":"x","rotationFrequencyDays":"5"}`: 201,
		`{"dataType":"password","material":"x","deactivationDate":"soon"}`:   400,
	} {
		got, out := a.call("POST", "/vault/secrets", body)
		if got != want {
			t.Errorf("%s: HTTP %d, want %d: %v", body, got, want, out)
		}
		if out["material"] != nil {
			t.Errorf("%s: answered the material", body)
		}
	}
	if out := a.want(201, "POST", "/vault/secrets?includeMaterial=true", `{"dataType":"seed","material":"0aFF"}`); out["material"] != "0aFF" {
		t.Errorf("includeMaterial: %v", out)
	}
}

func TestSecretVersions(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	first := a.want(201, "POST", "/vault/secrets", `{"name":"db","dataType":"password","material":"one","rotationFrequencyDays":"30","labels":{"a":"b"}}`)
	second := a.want(201, "POST", "/vault/secrets/db/versions", `{"material":"two"}`)
	if second["version"] != 1.0 || second["id"] == first["id"] || second["name"] != "db" || second["uri"] != "kylo:kylo:vault:secrets:db-v1" || js(second["labels"]) != `{"a":"b"}` {
		t.Errorf("second version: %v", second)
	}
	if at, err := time.Parse(time.RFC3339Nano, second.text("rotationDate")); err != nil || !near(at, time.Now().AddDate(0, 0, 30)) {
		t.Errorf("rotationDate %v, want in 30 days", second["rotationDate"])
	}
	if third := a.want(201, "POST", "/vault/secrets/db/versions?includeMaterial=true", ""); len(third.text("material")) < 8 {
		t.Errorf("without material one is made up: %v", third)
	}
	for ref, want := range map[string]float64{
		"db": 2, "db?version=-1": 2, "db?type=name&version=0": 0, "db?version=1": 1, first.text("id"): 0, second.text("uri") + "?type=uri": 1,
	} {
		if got := a.want(200, "GET", "/vault/secrets/"+ref, "")["version"]; got != want {
			t.Errorf("%s: version %v, want %v", ref, got, want)
		}
	}
	if got := a.want(200, "POST", "/vault/secrets/db/export?version=0", ""); got["material"] != "one" {
		t.Errorf("export of the first: %v", got)
	}
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/vault/secrets/db?version=9", "")
	a.refused(400, 9, badValue, "GET", "/vault/secrets/db?version=x", "")
	a.refused(400, 9, badValue, "GET", "/vault/secrets/db?type=x", "")
	if got := a.want(200, "GET", "/vault/secrets/db/versions?limit=2", ""); got["total"] != 3.0 || len(got.list()) != 2 {
		t.Errorf("versions: %v", got)
	}
	for query, want := range map[string]int{"name=d*": 3, "version=-1": 1, "version=0": 1, "objectType=Secret+Data": 3, "objectType=Opaque+Object": 0, "sha256Fingerprint=" + first.text("sha256Fingerprint"): 1} {
		if got := a.want(200, "GET", "/vault/secrets?"+query, "")["total"]; got != float64(want) {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	if strings.Contains(js(a.want(200, "GET", "/vault/secrets", "")), "material") {
		t.Error("the list tells the material")
	}
	if n, err := c.sim.RotateSecret("db", "four"); err != nil || n != 3 {
		t.Errorf("rotated by hand: %d, %v", n, err)
	}
}

func TestSecretLifeAndProtection(t *testing.T) {
	c := start(t, Config{})
	a := c.admin()
	now := time.Now().UTC()
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	make := func(name string, more object) {
		more["name"], more["dataType"], more["material"] = name, "password", "x"
		a.want(201, "POST", "/vault/secrets", js(more))
	}
	state := func(name, want string) {
		t.Helper()
		if got := a.want(200, "GET", "/vault/secrets/"+name, "")["state"]; got != want {
			t.Errorf("%s is %v, want %s", name, got, want)
		}
	}
	make("timed", object{"activationDate": at(time.Minute), "deactivationDate": at(2 * time.Minute)})
	state("timed", "Pre-Active")
	c.sim.Clock.Advance(90 * time.Second)
	state("timed", "Active")
	c.sim.Clock.Advance(time.Minute)
	state("timed", "Deactivated")
	a.want(200, "POST", "/vault/secrets/timed/export", "") // the client has to look at the state
	a.want(200, "PATCH", "/vault/secrets/timed", js(object{"deactivationDate": "", "rotationDate": at(time.Hour), "labels": object{"x": "y"}}))
	state("timed", "Active")
	a.refused(400, 9, badValue, "PATCH", "/vault/secrets/timed", js(object{"activationDate": at(time.Hour), "deactivationDate": at(time.Minute)}))
	a.refused(400, 9, badValue, "PATCH", "/vault/secrets/timed", `{"name":"other"}`)

	make("closed", object{"unexportable": true})
	a.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets/closed/export", "")
	a.refused(403, 6, "NCERRForbidden", "PATCH", "/vault/secrets/closed", `{"unexportable":false}`)
	make("kept", object{"undeletable": true})
	a.refused(403, 6, "NCERRForbidden", "DELETE", "/vault/secrets/kept", "")
	a.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets/kept/destroy", "")
	a.want(200, "PATCH", "/vault/secrets/kept", `{"undeletable":false}`)
	out := a.want(200, "POST", "/vault/secrets/kept/destroy", "")
	if out["state"] != "Destroyed" || out["destroyDate"] == nil {
		t.Errorf("destroyed: %v", out)
	}
	a.refused(409, 11, "NCERRConflict", "POST", "/vault/secrets/kept/export", "")
	a.refused(409, 11, "NCERRConflict", "POST", "/vault/secrets/kept/destroy", "")
	a.want(204, "DELETE", "/vault/secrets/kept", "")
	a.refused(404, 16, "NCERRResourceNotFound", "GET", "/vault/secrets/kept", "")
}

func TestSecretsAreForOwnersAndGroups(t *testing.T) {
	c := start(t, Config{Setup: Examples()})
	if err := c.sim.AddUsers(User{Username: "outsider", Password: "x"}, User{Username: "other", Password: "x", Groups: []string{"Key Users"}}); err != nil {
		t.Fatal(err)
	}
	m, _ := c.login("maya", "Maya-2504")
	m.want(200, "POST", "/vault/secrets/mypass/export", "") // by her group
	m.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets/mypass/versions", `{"material":"x"}`)
	m.want(201, "POST", "/vault/secrets", `{"name":"hers","dataType":"password","material":"x"}`)
	m.want(201, "POST", "/vault/secrets/hers/versions", `{"material":"y"}`)
	x, _ := c.login("outsider", "x")
	x.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets", `{"name":"n","dataType":"password","material":"x"}`)
	x.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets/mypass/export", "")
	if got := x.want(200, "GET", "/vault/secrets", "")["total"]; got != 0.0 {
		t.Errorf("the outsider sees %v secrets", got)
	}
	o, _ := c.login("other", "x")
	o.refused(403, 6, "NCERRForbidden", "GET", "/vault/secrets/hers", "")
	m.want(200, "PATCH", "/vault/secrets/hers", `{"meta":{"permissions":{"ReadKey":["Key Users"]}}}`)
	o.want(200, "GET", "/vault/secrets/hers", "")
	o.refused(403, 6, "NCERRForbidden", "POST", "/vault/secrets/hers/export", "")
}
