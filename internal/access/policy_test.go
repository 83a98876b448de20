package access

import (
	"strings"
	"testing"
	"time"
)

func compile(t *testing.T, rules ...Rule) *Policy {
	t.Helper()
	p, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyDecides(t *testing.T) {
	p := compile(t,
		Rule{Callers{Users: []string{"4001"}}, Allow{
			Secrets: []string{"db"}, Certificates: []string{"web"}, Keys: map[string][]string{"host": {"sign"}, "pub": {"read"}},
			Tokens: []string{"pam"}, Proxy: map[string][]string{"pam": {"GET /iso/*"}}}},
		Rule{Callers{Groups: []string{"4100"}}, Allow{Secrets: []string{"db", "api"}}},
		Rule{Callers{Units: []string{"app.service"}}, Allow{Secrets: []string{"*"}}},
		Rule{Callers{Users: []string{"root"}}, Allow{Admin: true}},
		Rule{Callers{Users: []string{"4005"}}, Allow{Keys: map[string][]string{"*": {"sign"}, "kek": {"sign"}}}},
	)
	user := Peer{UID: 4001, GID: 4001}
	member := Peer{UID: 4002, GID: 4002, Groups: []uint32{7, 4100}}
	primary := Peer{UID: 4003, GID: 4100}
	unit := Peer{UID: 4004, GID: 4004, Unit: "app.service"}
	root := Peer{}
	signer := Peer{UID: 4005, GID: 4005}
	nobody := Peer{UID: 65534, GID: 65534}

	for _, tt := range []struct {
		name string
		peer Peer
		act  Action
		rule int // -1: denied
		by   string
	}{
		{"user", user, Action{Kind: Secret, Name: "db"}, 0, "user 4001"},
		{"user, other secret", user, Action{Kind: Secret, Name: "api"}, -1, ""},
		{"a name gives one kind only", user, Action{Kind: Secret, Name: "web"}, -1, ""},
		{"certificate", user, Action{Kind: Certificate, Name: "web"}, 0, "user 4001"},
		{"sign", user, Action{Kind: Key, Name: "host", Op: "sign"}, 0, "user 4001"},
		{"who may sign may read", user, Action{Kind: Key, Name: "host", Op: "read"}, 0, "user 4001"},
		{"who may read may not sign", user, Action{Kind: Key, Name: "pub", Op: "sign"}, -1, ""},
		{"token", user, Action{Kind: Token, Name: "pam"}, 0, "user 4001"},
		{"proxy", user, Action{Kind: Proxy, Name: "pam", Op: "GET", Path: "/iso/x"}, 0, "user 4001"},
		{"proxy, other method", user, Action{Kind: Proxy, Name: "pam", Op: "PUT", Path: "/iso/x"}, -1, ""},
		{"proxy, other upstream", user, Action{Kind: Proxy, Name: "cm", Op: "GET", Path: "/iso/x"}, -1, ""},
		{"supplementary group", member, Action{Kind: Secret, Name: "api"}, 1, "group 4100"},
		{"primary group", primary, Action{Kind: Secret, Name: "api"}, 1, "group 4100"},
		{"unit and star", unit, Action{Kind: Secret, Name: "whatever"}, 2, "unit app.service"},
		{"a star is of one kind", unit, Action{Kind: Certificate, Name: "web"}, -1, ""},
		{"admin", root, Action{Kind: Admin}, 3, "user root"},
		{"an admin reads no secrets", root, Action{Kind: Secret, Name: "db"}, -1, ""},
		{"an admin sees the sealing key", root, Action{Kind: Key, Name: "kek", Op: "read"}, 3, "user root"},
		{"an admin does not use it", root, Action{Kind: Key, Name: "kek", Op: "sign"}, -1, ""},
		{"all keys", signer, Action{Kind: Key, Name: "host", Op: "sign"}, 4, "user 4005"},
		{"all but the sealing key", signer, Action{Kind: Key, Name: "kek", Op: "sign"}, -1, ""},
		{"which is not shown either", signer, Action{Kind: Key, Name: "kek", Op: "read"}, -1, ""},
		{"not an admin", user, Action{Kind: Admin}, -1, ""},
		{"nobody", nobody, Action{Kind: Secret, Name: "db"}, -1, ""},
		{"no such kind", unit, Action{Kind: 99, Name: "db"}, -1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := p.Decide(&tt.peer, tt.act)
			if d.Allowed != (tt.rule >= 0) || d.Rule != tt.rule || d.By != tt.by {
				t.Errorf("got %+v, want rule %d by %q", d, tt.rule, tt.by)
			}
		})
	}
	if !p.Known(&member) || p.Known(&nobody) {
		t.Error("Known: want the member of a named group, and not nobody")
	}
	if (*Policy)(nil).Decide(&root, Action{}).Allowed || compile(t).Decide(&root, Action{}).Allowed {
		t.Error("without rules something is allowed")
	}
}

func TestCompileNamesEveryFault(t *testing.T) {
	_, err := Compile([]Rule{
		{Callers{Users: []string{"root", "no-such-user"}, Groups: []string{"no-such-group"}, Units: []string{"app"}}, Allow{}},
		{Callers{}, Allow{Keys: map[string][]string{"host": {"steal"}}, Proxy: map[string][]string{"pam": {"get /x"}}}},
		{Callers{Users: []string{"4294967295"}}, Allow{}},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`policy[0].callers.users[1]: there is no user "no-such-user" on this host`,
		`policy[0].callers.groups[0]: there is no group "no-such-group" on this host`,
		`policy[0].callers.units[0]: "app" is not the full name of a unit, such as app.service`,
		`policy[1].callers: names nobody`,
		`policy[1].allow.keys.host[0]: "steal"`,
		`policy[1].allow.proxy.pam[0]: `,
		`policy[2].callers.users[0]: `,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := compile(t, Rule{Callers{Users: []string{"4001"}}, Allow{Secrets: []string{"db"}}})
	peer := Peer{UID: 4001}
	if n := testing.AllocsPerRun(100, func() {
		if !p.Decide(&peer, Action{Kind: Secret, Name: "db"}).Allowed {
			t.Error("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(Limit{PerSecond: 5, Burst: 10})
	allowed := 0
	for range 14 {
		if _, ok := l.Take(1, now); ok {
			allowed++
		}
	}
	if allowed != 10 {
		t.Errorf("%d at once, want the burst of 10", allowed)
	}
	wait, ok := l.Take(1, now)
	if ok || wait != 200*time.Millisecond {
		t.Errorf("%v, %v; want to wait 200ms", wait, ok)
	}
	if _, ok := l.Take(2, now); !ok {
		t.Error("another user is limited too")
	}
	if _, ok := l.Take(1, now.Add(wait)); !ok {
		t.Error("still limited after the wait")
	}
	if _, ok := l.Take(1, now.Add(-time.Hour)); ok {
		t.Error("a clock that went back gave a token")
	}
	for uid := range uint32(2 * maxBuckets) {
		l.Take(uid, now.Add(time.Duration(uid)*time.Second))
	}
	if len(l.buckets) > maxBuckets {
		t.Errorf("%d buckets are kept", len(l.buckets))
	}
	if _, ok := NewLimiter(Limit{}).Take(1, now); !ok {
		t.Error("the zero limit limits")
	}
}
