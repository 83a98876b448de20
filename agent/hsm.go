package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/hsm"
	"github.com/signet-agent/signet/internal/access"
	"github.com/signet-agent/signet/sinks/socket"
)

// tokenOf is the token that the key in use is on; nil for a key in a file, and for one
// that is not of a certificate.
func (a *Agent) tokenOf(name string) *hsm.Token {
	r := a.rotators[name]
	if r == nil {
		return nil
	}
	k, ok := r.keys.(*tokenKeys)
	if !ok {
		return nil
	}
	if snap := r.snap.Load(); snap != nil {
		return k.of(cmp.Or(snap.Current.KeyID, snap.Next.KeyID))
	}
	return k.token
}

// storeOnToken puts a certificate beside its key, where that is configured, for
// programs which find both by a PKCS#11 URI. It comes after all other sinks:
// those need no token. A failure is that of publishing, which is tried again.
func (a *Agent) storeOnToken(ctx context.Context, c config.Issuance, r *rotator, v version) error {
	k, ok := r.keys.(*tokenKeys)
	if !c.OnToken || !ok {
		return nil
	}
	return k.of(v.KeyID).StoreCertificate(ctx, v.KeyID, v.Chain[0])
}

// closed says why the token of a key is closed, or nil.
func (b backend) closed(name string) error {
	t := b.tokenOf(name)
	if t == nil {
		return nil
	}
	switch st := t.Status(); {
	case st.Open:
		return nil
	case st.Err != nil:
		return st.Err
	default:
		return &refusal{socket.CodeUnavailable, fmt.Sprintf("hsm %q is not open yet", st.Name)}
	}
}

// Keys is for socket.Backend. A token that is closed hides its own keys, and is
// told of if there are no others. A key in a file is none that can be asked for.
func (b backend) Keys(visible func(name string) bool) ([]socket.KeyInfo, error) {
	var out []socket.KeyInfo
	var away error
	for _, name := range slices.Sorted(maps.Keys(b.rotators)) {
		k, ok := b.rotators[name].keys.(*tokenKeys)
		if !ok || !visible(name) {
			continue
		}
		if err := b.closed(name); err != nil {
			away = err
			continue
		}
		v, err := b.keyOf(name)
		if err != nil {
			continue // being made
		}
		info := socket.KeyInfo{Name: name, Generation: v.Generation, Algorithm: string(k.typ)}
		if pub, err := publicOf(v); err == nil {
			info.PublicKey, _ = pemOf(pub) // a key that was parsed can be written
		}
		out = append(out, info)
	}
	if len(out) == 0 && away != nil {
		return nil, problem(away)
	}
	return out, nil
}

// Key is for socket.Backend. A key that fails its audit is shown all the same,
// with what is wrong with it.
func (b backend) Key(ctx context.Context, name string) (socket.KeyInfo, error) {
	switch name {
	case auditKeyName:
		info, err := b.signer.info(ctx)
		return info, problem(err)
	case access.SealingKey:
		info, err := b.sealingKeyInfo(ctx)
		return info, problem(err)
	}
	v, err := b.keyOf(name)
	if err != nil {
		return socket.KeyInfo{}, problem(err)
	}
	info := socket.KeyInfo{Name: name, Generation: v.Generation}
	k, ok := b.rotators[name].keys.(*tokenKeys)
	if !ok {
		return info, problem(&refusal{socket.CodeInvalid, fmt.Sprintf("key %q is in a file, not in the HSM", name)})
	}
	got, err := k.of(v.KeyID).Info(ctx, v.KeyID)
	if err != nil {
		return info, problem(err)
	}
	info.Algorithm, info.Attributes = string(k.typ), attributesOf(got)
	if got.Public != nil {
		info.PublicKey, err = pemOf(got.Public)
	}
	return info, problem(err)
}

// keyAudit is what `signet key show --json` has under attributes, audit. What
// was tried in order to get the key out must have been refused.
type keyAudit struct {
	Passed   bool     `json:"passed"`
	Findings []string `json:"findings"`     // what is wrong
	Read     string   `json:"read_private"` // refused or allowed
	Wrap     string   `json:"wrap"`         // refused, allowed or untested
	WrapBy   string   `json:"wrap_by"`      // how it was tried, or why it could not be
}

// attributesOf are the attributes of a key as the module states them, with its audit.
func attributesOf(k hsm.KeyInfo) map[string]any {
	a := keyAudit{k.Audit.Passed, append([]string{}, k.Audit.Findings...), k.Audit.Read, k.Audit.Wrap, k.Audit.WrapBy}
	if why := k.Unfit; why != nil {
		if e, ok := errors.AsType[*hsm.Error](why); ok {
			why = e.Err
		}
		a.Passed, a.Findings = false, append(a.Findings, why.Error())
	}
	attributes := maps.Clone(k.Attributes)
	attributes["audit"] = a
	return attributes
}

// object is something on a token that the ledger does not know.
type object struct {
	Token string `json:"token"`
	ID    string `json:"id,omitempty"`
	Label string `json:"label,omitempty"`
	What  string `json:"what"`
}

// skipped is a token that could not be looked at.
type skipped struct {
	Token string `json:"token"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// Objects is for socket.Backend. A token that cannot be looked at hides no other,
// and is the answer if there is no other.
func (b backend) Objects(ctx context.Context) (any, error) {
	answer := struct {
		Objects []object  `json:"objects"`
		Skipped []skipped `json:"skipped,omitempty"`
	}{Objects: []object{}}
	var last error
	for _, name := range slices.Sorted(maps.Keys(b.tokens)) {
		unknown, err := b.tokens[name].Unknown(ctx)
		if err != nil {
			last = err
			answer.Skipped = append(answer.Skipped, skipped{name, err.Error(), hintOf(err)})
			continue
		}
		for _, u := range unknown {
			answer.Objects = append(answer.Objects, object{name, u.ID, u.Label, u.What})
		}
	}
	if len(answer.Skipped) == len(b.tokens) {
		return nil, problem(last)
	}
	return answer, nil
}

// ClearPINGuard is for socket.Backend.
func (b backend) ClearPINGuard(ctx context.Context, name string) error {
	t, ok := b.tokens[name]
	if !ok {
		return problem(&refusal{socket.CodeNotFound, fmt.Sprintf("no token %q is configured", name)})
	}
	cleared := t.ClearPINGuard()
	b.log.Warn("PIN guard cleared by an administrator", "hsm", name)
	for {
		changed := t.Changed()
		if st := t.Status(); st.Open || st.Tried.After(cleared) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return problem(context.Cause(ctx))
		}
	}
}

// checkToken looks at a token: whether it is open, what its module cannot do,
// which keys are lost, and what is on it that nobody here made.
func checkToken(ctx context.Context, name string, t *hsm.Token) []Check {
	c := Check{Name: "hsm " + name, Status: checkOK}
	st := t.Status()
	if !st.Open {
		closed := []Check{{Name: c.Name, Status: checkFailed, Detail: "not open yet"}}
		if st.Err != nil {
			closed[0] = failedCheck(c.Name, st.Err)
		}
		if errors.Is(st.Err, hsm.ErrPIN) {
			pin := failedCheck(c.Name+" pin", st.Err)
			pin.Detail = "the PIN is not accepted, and is not tried again until it is another or `signet doctor --clear-pin-guard` was run"
			closed = append(closed, pin)
		}
		return closed
	}
	c.Detail = fmt.Sprintf("token %q, serial %s, %s, %d signatures at once", st.Label, st.Serial, st.Module, st.Sessions)
	if st.Restarts > 0 {
		c.Detail += fmt.Sprintf("; its worker was replaced %d times", st.Restarts)
	}
	checks := []Check{c, {Name: c.Name + " pin", Status: checkOK, Detail: "accepted"}}
	if len(st.Limits) > 0 {
		checks = append(checks, Check{Name: c.Name + " module", Status: checkWarning, Detail: strings.Join(st.Limits, "; "),
			Hint: "what the module cannot do is only a trouble where the configuration asks for it"})
	}
	for _, w := range st.Warnings {
		text, hint, _ := strings.Cut(w, "; ")
		checks = append(checks, Check{Name: c.Name + " warning", Status: checkWarning, Detail: text, Hint: hint})
	}
	objects := checkObjects(ctx, c.Name+" objects", t)
	checks = append(checks, checkKeys(ctx, c.Name, t)...)
	return append(checks, objects)
}

// checkKeys tries the keys in use. Which are lost is known from when the objects
// were looked at.
func checkKeys(ctx context.Context, token string, t *hsm.Token) []Check {
	keys := Check{Name: token + " keys", Status: checkOK, Detail: "all in use work"}
	if lost := t.Status().Lost; len(lost) > 0 {
		keys.Status, keys.Detail = checkFailed, "not on the token, though the ledger has them: "+strings.Join(lost, ", ")
		keys.Hint = "if the token was restored from an old copy, restore a newer one; otherwise `signet rotate`"
		if slices.ContainsFunc(lost, func(name string) bool { return strings.HasPrefix(name, access.SealingKey+"#") }) {
			keys.Hint += ", and for " + access.SealingKey + ", before the agent is started again, `signet key rotate-sealing`"
		}
	}
	unfit, err := t.Unfit(ctx)
	if err != nil {
		keys = failedCheck(keys.Name, err)
	} else if len(unfit) > 0 && keys.Status == checkOK {
		keys.Status, keys.Detail = checkFailed, fmt.Sprintf("%d cannot be used", len(unfit))
	}
	checks := []Check{keys}
	for _, fault := range unfit {
		name := keys.Name
		if e, ok := errors.AsType[*hsm.Error](fault); ok {
			name = token + " key " + e.Key
		}
		checks = append(checks, failedCheck(name, fault))
	}
	return checks
}

// maxNamed is how many unknown objects a check names.
const maxNamed = 5

func checkObjects(ctx context.Context, name string, t *hsm.Token) Check {
	unknown, err := t.Unknown(ctx)
	if err != nil {
		return failedCheck(name, err)
	}
	if len(unknown) == 0 {
		return Check{Name: name, Status: checkOK, Detail: "all are the agent's"}
	}
	var named []string
	for _, u := range unknown[:min(len(unknown), maxNamed)] {
		named = append(named, fmt.Sprintf("%q id %s (%s)", u.Label, u.ID, u.What))
	}
	if len(unknown) > maxNamed {
		named = append(named, "...")
	}
	return Check{Name: name, Status: checkWarning,
		Detail: fmt.Sprintf("%d are not the agent's: %s", len(unknown), strings.Join(named, ", ")),
		Hint:   "they are left alone; `signet key list` names them all"}
}
