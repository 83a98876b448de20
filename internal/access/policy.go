package access

import (
	"errors"
	"fmt"
	"maps"
	"os/user"
	"slices"
	"strconv"
)

// A Rule allows what it names to the callers that it names. It has the shape of
// an entry of `policy:` in the configuration.
type Rule struct {
	Callers Callers
	Allow   Allow
}

// Callers are local processes: those of any of the users, of any of the groups,
// or in any of the systemd units.
type Callers struct {
	Users  []string // names or numbers
	Groups []string // names or numbers
	Units  []string // app.service
}

// Allow is what a rule gives. In the lists of names, "*" stands for all.
type Allow struct {
	Secrets      []string
	Certificates []string // with the private key, where it is made for a file
	// Keys says what may be done with a key: sign, or read for its public half
	// alone.
	Keys   map[string][]string
	Tokens []string
	Proxy  map[string][]string // patterns, see Pattern
	// Metrics shows all metrics, which name the items; without it a caller has
	// those of what it may know of.
	Metrics bool
	Admin   bool
}

// A Kind is a kind of thing that can be asked for.
type Kind uint8

// The kinds. Any other access is an administrator's.
const (
	Admin Kind = iota
	Secret
	Certificate
	Key
	Token
	Proxy
)

var kindNames = [...]string{"admin", "secret", "certificate", "key", "token", "proxy"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// ParseKind is the inverse of Kind.String.
func ParseKind(s string) (Kind, bool) {
	i := slices.Index(kindNames[:], s)
	return Kind(max(i, 0)), i >= 0
}

// An Action is what a caller wants to do.
type Action struct {
	Kind Kind
	Name string // of the item or the upstream; not used for Admin
	Op   string // Key: "sign" or "read"; Proxy: the HTTP method; Admin: "metrics" or ""
	Path string // Proxy: the decoded path at the upstream
}

// A Decision says whether an Action is allowed, and by what.
type Decision struct {
	Allowed bool
	Rule    int    // index of the deciding rule, -1 if none allows it
	By      string // what made that rule match: "user www-data"
}

func (d Decision) String() string {
	if !d.Allowed {
		return "denied: no rule of the policy allows it"
	}
	return fmt.Sprintf("allowed: policy[%d], %s", d.Rule, d.By)
}

// A Policy decides who may do what. It is immutable.
type Policy struct {
	rules []callers // by index of the rule
	items map[item][]grant
	all   [Proxy + 1][]grant // rules that name "*"
	admin []int
	watch []int // rules that show all metrics
}

type item struct {
	kind Kind
	name string
}

// A grant is one rule's right to one item. Only one of ops and patterns is used.
type grant struct {
	rule     int
	ops      []string
	patterns []Pattern
}

// callers is a compiled Callers: each maps to the text for Decision.By.
type callers struct {
	uids  map[uint32]string
	gids  map[uint32]string
	units map[string]string
}

// Compile resolves the names in rules by the host's user database. All faults
// are reported at once, each with its place: "policy[1].callers.users[0]: ...".
func Compile(rules []Rule) (*Policy, error) {
	p := &Policy{items: map[item][]grant{}}
	var bad []error
	fault := func(at, format string, args ...any) {
		bad = append(bad, fmt.Errorf("%s: "+format, append([]any{at}, args...)...))
	}
	for i, r := range rules {
		at := "policy[" + strconv.Itoa(i) + "]"
		p.rules = append(p.rules, compileCallers(at+".callers", r.Callers, fault))
		p.allow(at+".allow", i, r.Allow, fault)
	}
	if bad != nil {
		return nil, errors.Join(bad...)
	}
	return p, nil
}

type faultFunc func(at, format string, args ...any)

func compileCallers(at string, c Callers, fault faultFunc) callers {
	out := callers{uids: map[uint32]string{}, gids: map[uint32]string{}, units: map[string]string{}}
	if len(c.Users)+len(c.Groups)+len(c.Units) == 0 {
		fault(at, "names nobody; add users, groups or units")
	}
	for i, name := range c.Users {
		id, err := lookupID(name, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			fault(at+".users["+strconv.Itoa(i)+"]", "there is no user %q on this host", name)
			continue
		}
		out.uids[id] = "user " + name
	}
	for i, name := range c.Groups {
		id, err := lookupID(name, func() (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			fault(at+".groups["+strconv.Itoa(i)+"]", "there is no group %q on this host", name)
			continue
		}
		out.gids[id] = "group " + name
	}
	for i, name := range c.Units {
		if !isUnit(name) {
			fault(at+".units["+strconv.Itoa(i)+"]", "%q is not the full name of a unit, such as %s.service", name, name)
			continue
		}
		out.units[name] = "unit " + name
	}
	return out
}

// lookupID takes a name, or a number that is nobody's name.
func lookupID(name string, lookup func() (string, error)) (uint32, error) {
	text, err := lookup()
	if err != nil {
		text = name
	}
	// The highest number is "no change" to the kernel, never a user.
	n, perr := strconv.ParseUint(text, 10, 32)
	if perr != nil || n == 1<<32-1 {
		return 0, errors.Join(err, perr)
	}
	return uint32(n), nil
}

func (p *Policy) allow(at string, rule int, a Allow, fault faultFunc) {
	if a.Admin {
		p.admin = append(p.admin, rule)
	}
	if a.Metrics {
		p.watch = append(p.watch, rule)
	}
	for _, name := range a.Secrets {
		p.grant(Secret, name, grant{rule: rule})
	}
	for _, name := range a.Certificates {
		p.grant(Certificate, name, grant{rule: rule})
	}
	for _, name := range a.Tokens {
		p.grant(Token, name, grant{rule: rule})
	}
	for _, name := range slices.Sorted(maps.Keys(a.Keys)) {
		for i, op := range a.Keys[name] {
			if op != "sign" && op != "read" {
				fault(fmt.Sprintf("%s.keys.%s[%d]", at, name, i), "%q is not something to do with a key; sign and read are", op)
			}
		}
		p.grant(Key, name, grant{rule: rule, ops: a.Keys[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(a.Proxy)) {
		g := grant{rule: rule}
		for i, text := range a.Proxy[name] {
			pat, err := ParsePattern(text)
			if err != nil {
				fault(fmt.Sprintf("%s.proxy.%s[%d]", at, name, i), "%v", err)
				continue
			}
			g.patterns = append(g.patterns, pat)
		}
		p.grant(Proxy, name, g)
	}
}

func (p *Policy) grant(k Kind, name string, g grant) {
	if name == "*" {
		p.all[k] = append(p.all[k], g)
		return
	}
	p.items[item{k, name}] = append(p.items[item{k, name}], g)
}

// Decide says whether the caller may do it. Whether the item exists is not
// known here and makes no difference. A nil Policy allows nothing.
func (p *Policy) Decide(peer *Peer, a Action) Decision {
	if p == nil {
		return Decision{Rule: -1}
	}
	if a.Kind == Admin {
		if d := p.any(p.admin, peer); d.Allowed || a.Op != "metrics" {
			return d
		}
		return p.any(p.watch, peer)
	}
	if a.Kind == Key && a.Name == SealingKey {
		if a.Op != "read" {
			return Decision{Rule: -1}
		}
		return p.any(p.admin, peer)
	}
	if d := p.decide(p.items[item{a.Kind, a.Name}], peer, a); d.Allowed || int(a.Kind) >= len(p.all) {
		return d
	}
	if d := p.decide(p.all[a.Kind], peer, a); d.Allowed || a.Kind != Key || a.Name != AuditKey || a.Op != "read" {
		return d
	}
	return p.any(p.admin, peer) // the audit is theirs to verify
}

// The names of the agent's own keys in the HSM.
const (
	AuditKey   = "audit" // signs the audit
	SealingKey = "kek"   // wraps the data key; nothing of it is for anybody but its audit, for administrators
)

// any is the first of the rules that is about the caller.
func (p *Policy) any(rules []int, peer *Peer) Decision {
	for _, rule := range rules {
		if by := p.rules[rule].match(peer); by != "" {
			return Decision{Allowed: true, Rule: rule, By: by}
		}
	}
	return Decision{Rule: -1}
}

func (p *Policy) decide(grants []grant, peer *Peer, a Action) Decision {
	for i := range grants {
		g := &grants[i]
		by := p.rules[g.rule].match(peer)
		if by != "" && g.covers(a) {
			return Decision{Allowed: true, Rule: g.rule, By: by}
		}
	}
	return Decision{Rule: -1}
}

// Reaches reports whether the caller has any right to an item, whatever it is.
func (p *Policy) Reaches(peer *Peer, k Kind, name string) bool {
	if p == nil || int(k) >= len(p.all) {
		return false
	}
	has := func(g grant) bool { return p.rules[g.rule].match(peer) != "" }
	return slices.ContainsFunc(p.items[item{k, name}], has) || slices.ContainsFunc(p.all[k], has)
}

// Known reports whether any rule is about the caller at all.
func (p *Policy) Known(peer *Peer) bool {
	if p == nil {
		return false
	}
	for i := range p.rules {
		if p.rules[i].match(peer) != "" {
			return true
		}
	}
	return false
}

func (g *grant) covers(a Action) bool {
	switch a.Kind {
	case Key:
		// Who may sign may see what verifies the signature.
		return slices.Contains(g.ops, a.Op) || a.Op == "read" && slices.Contains(g.ops, "sign")
	case Proxy:
		for i := range g.patterns {
			if g.patterns[i].Match(a.Op, a.Path) {
				return true
			}
		}
		return false
	}
	return true
}

// match says what about the peer the rule names, or "".
func (c *callers) match(peer *Peer) string {
	if by := c.uids[peer.UID]; by != "" {
		return by
	}
	if len(c.gids) > 0 {
		if by := c.gids[peer.GID]; by != "" {
			return by
		}
		for _, gid := range peer.Groups {
			if by := c.gids[gid]; by != "" {
				return by
			}
		}
	}
	if peer.Unit != "" {
		return c.units[peer.Unit]
	}
	return ""
}
