package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

func TestSealedEntryOfAnotherItemOrHostDoesNotOpen(t *testing.T) {
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	blob, _ := heldAt(time.Now()).seal(s, binding{})
	if h, _, err := unseal(s, "db", binding{}, blob, nil); err != nil || password(&h.Secret) != "one" {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, _, err := unseal(s, "db", binding{1}, blob, nil); !errors.Is(err, errTampered) {
		t.Errorf("as another item: %v", err)
	}
	if _, _, err := unseal(other, "db", binding{}, blob, nil); !errors.Is(err, errTampered) {
		t.Errorf("on another host: %v", err)
	}
	for i := range blob {
		bad := append([]byte(nil), blob...)
		bad[i] ^= 1
		if _, _, err := unseal(s, "db", binding{}, bad, nil); !errors.Is(err, errTampered) {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
}

func TestSealedEntryFromTheFutureIsStaleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := secretSpec{TTL: time.Minute, MaxStale: time.Hour}
		b := newCacheBench(t, spec, nil, is("one"))
		blob, _ := heldAt(time.Now().Add(100*day)).seal(b.sealer, binding{})
		again := newCacheBench(t, spec, map[string][]byte{"db": blob}, fails(upstream.Unavailable))
		if it := again.last(); !it.Stale(time.Now()) || it.UsableUntil.After(time.Now().Add(time.Hour)) {
			t.Errorf("fresh until %v, usable until %v, and it is %v", it.FreshUntil, it.UsableUntil, time.Now())
		}
	})
}

// Rule 7: what a name stood for before the configuration was changed is not
// served for what it stands for now; what it stands for still is.
func TestValueOfAnotherItemIsNotTakenUp(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"secret: mypass", "secret: other", "fresh missing"},
		{"ttl: 10m", "ttl: 20m", "fresh fresh"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newTrustBench(t, false)
			stop := b.start()
			b.is("fresh fresh", "before")
			stop()
			b.yaml = strings.Replace(b.yaml, tt.from, tt.to, 1)
			defer b.start()()
			b.is(tt.want, "after "+tt.to)
		})
	}
}

func TestBindingSaysWhichItem(t *testing.T) {
	pam := config.Upstream{Auth: config.Auth{ClientID: "one"}}
	seen := map[binding]string{}
	for name, of := range map[string]binding{
		"db":                  bindingOf("db", config.Secret{Upstream: "pam", Credential: "5"}, pam),
		"another name":        bindingOf("db2", config.Secret{Upstream: "pam", Credential: "5"}, pam),
		"another upstream":    bindingOf("db", config.Secret{Upstream: "cm", Credential: "5"}, pam),
		"another kind":        bindingOf("db", config.Secret{Upstream: "pam", Info: "5"}, pam),
		"a kind more":         bindingOf("db", config.Secret{Upstream: "pam", Secret: "5"}, pam),
		"another item":        bindingOf("db", config.Secret{Upstream: "pam", Credential: "6"}, pam),
		"an application":      bindingOf("db", config.Secret{Upstream: "pam", Application: true}, pam),
		"another application": bindingOf("db", config.Secret{Upstream: "pam", Application: true}, config.Upstream{Auth: config.Auth{ClientID: "two"}}),
		"shifted":             bindingOf("d", config.Secret{Upstream: "bpam", Credential: "5"}, pam),
	} {
		if other, ok := seen[of]; ok {
			t.Errorf("%s and %s are bound to the same", name, other)
		}
		seen[of] = name
	}
	moved := config.Upstream{URL: "https://elsewhere", Auth: config.Auth{ClientID: "new"}}
	if c := (config.Secret{Upstream: "pam", Credential: "5"}); bindingOf("db", c, moved) != bindingOf("db", c, pam) {
		t.Error("an upstream that is reached elsewhere has other items")
	}
}
