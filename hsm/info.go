package hsm

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-agent/signet/hsm/wire"
)

// A KeyInfo is what can be said of a key.
type KeyInfo struct {
	LedgerKey
	Public     crypto.PublicKey // nil for a sealing key that has none
	SPKI       []byte
	Attributes map[string]any // CKA_... as the module states them; nil where it does not
	Audit      Audit
	// Unfit is why an agent that is started now would not use the key, whatever its
	// audit says: such as that half of it is gone. It is nil if it would.
	Unfit error
	// Certificate is the one stored beside the key, in DER; nil if none is.
	Certificate []byte
}

// An Audit is whether a key can leave the token, from what the module says and
// from what it did when asked.
type Audit struct {
	Passed   bool
	Findings []string // what is wrong
	Read     string   // outcome of reading the private value: refused, allowed, unclear
	Wrap     string   // outcome of wrapping the key: refused, allowed, untested, unclear
	WrapBy   string   // what was tried, or why nothing could be
}

// Info asks the token about a key.
func (t *Token) Info(ctx context.Context, id string) (KeyInfo, error) {
	k, err := t.ledgerKey("show", id)
	if err != nil {
		return KeyInfo{}, err
	}
	info := KeyInfo{LedgerKey: k}
	f, err := t.find(ctx, k, wire.Find{Fresh: true, Show: true})
	if err != nil {
		return info, err
	}
	if f.Private+f.Secret == 0 {
		return info, t.fail("show", k.String(), ErrKeyLost)
	}
	info.SPKI, info.Certificate = f.SPKI, f.Certificate
	if _, err := t.whole(k, f); err != nil {
		info.Unfit = t.fail("check", k.String(), err)
	}
	if len(f.SPKI) > 0 {
		if info.Public, err = x509.ParsePKIXPublicKey(f.SPKI); err != nil {
			return info, t.fail("show", k.String(), err)
		}
	}
	a, err := t.audit(ctx, k)
	if err != nil {
		return info, err
	}
	findings := judge(a).all()
	info.Attributes = a.Attributes
	info.Audit = Audit{Passed: len(findings) == 0, Findings: findings, Read: a.Read, Wrap: a.Wrap, WrapBy: a.WrapBy}
	return info, nil
}

// A verdict is what is wrong with a key: what is grave is never accepted.
type verdict struct{ grave, weak []string }

func (v verdict) all() []string { return slices.Concat(v.grave, v.weak) }

func (v verdict) refuses(lenient bool) bool { return len(v.grave) > 0 || len(v.weak) > 0 && !lenient }

// judge says what is wrong with a key. A flag that the module does not state is
// not held against it, except the two that say whether the key can leave now.
func judge(a *wire.Audited) verdict {
	var v verdict
	for _, want := range []struct {
		name     string
		value    bool
		required bool
	}{
		{"CKA_SENSITIVE", true, true},
		{"CKA_EXTRACTABLE", false, true},
		{"CKA_ALWAYS_SENSITIVE", true, false},
		{"CKA_NEVER_EXTRACTABLE", true, false},
		{"CKA_TOKEN", true, false},
	} {
		is, stated := a.Attributes[want.name].(bool)
		to := &v.weak
		if want.required {
			to = &v.grave
		}
		if stated && is != want.value || !stated && want.required {
			*to = append(*to, fmt.Sprintf("%s is %v", want.name, a.Attributes[want.name]))
		}
	}
	if local, stated := a.Attributes["CKA_LOCAL"].(bool); stated && !local && a.Attributes["CKA_KEY_GEN_MECHANISM"] == nil {
		v.weak = append(v.weak, "CKA_LOCAL is false: it was not made on the token")
	}
	switch a.Read {
	case wire.Refused:
	case wire.Allowed:
		v.grave = append(v.grave, "its private value can be read")
	default:
		v.grave = append(v.grave, "whether its private value can be read is not clear: "+a.ReadBy)
	}
	switch a.Wrap {
	case wire.Refused, wire.Untested:
	case wire.Allowed:
		v.weak = append(v.weak, "it can be wrapped out by "+a.WrapBy)
	default:
		v.weak = append(v.weak, "whether it can be wrapped out is not clear: "+a.WrapBy)
	}
	return v
}

// surplus is what a key can be used for that it is not for. A key that was made from
// a template without is not as it was asked for; one from before is only shown so.
func surplus(typ KeyType, a *wire.Audited) (findings []string) {
	all, uses := []string{"CKA_SIGN", "CKA_SIGN_RECOVER", "CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE"}, []string{"CKA_SIGN"}
	switch typ {
	case sealAES:
		all, uses = append(all, "CKA_VERIFY", "CKA_ENCRYPT", "CKA_WRAP"), []string{"CKA_ENCRYPT", "CKA_DECRYPT"}
	case sealRSA:
		uses = []string{"CKA_DECRYPT"}
	}
	for _, name := range all {
		if a.Attributes[name] == true && !slices.Contains(uses, name) {
			findings = append(findings, name+" is true, though it was asked to be false")
		}
	}
	return findings
}

// An Object is something on the token that the ledger does not know.
type Object struct {
	ID    string // hex CKA_ID; may be empty
	Label string
	What  string // such as "private key, public key"
}

// Unknown lists what is on the token and not in the ledger, and what shares its ID
// with a key of ours. It is never touched.
// What is in the ledger and not on the token is noted in the Status, and what was
// lost and is there again, or is not wanted any more, no longer.
func (t *Token) Unknown(ctx context.Context) ([]Object, error) {
	keys, err := t.ledgerKeys()
	if err != nil {
		return nil, err
	}
	known := map[string]LedgerKey{}
	for _, k := range keys {
		if k.State != Destroyed {
			known[k.ID] = k
		}
	}
	listed, err := t.list(ctx)
	if err != nil {
		return nil, err
	}
	there := present(listed)
	var lost []string
	for _, k := range keys {
		if !k.alive() || there[k.ID] {
			continue
		}
		if now, err := t.ledgerKey("list", k.ID); err == nil && now.alive() { // not destroyed meanwhile
			lost = append(lost, k.String())
		}
	}
	t.setLost(func([]string) []string { return lost })
	var out []Object
	for _, f := range listed.Found {
		k, ours := known[f.ID]
		if !ours {
			out = append(out, Object{ID: f.ID, Label: f.Label, What: contents(f)})
		} else if f.Private+f.Secret > 1 || f.Public > 1 {
			out = append(out, Object{ID: f.ID, Label: f.Label, What: contents(f) + " with the ID of our key " + k.String()})
		}
	}
	for _, l := range listed.Loose {
		what := l.Class + " without ID"
		if len(l.Remains) > 0 {
			what += ", incomplete"
		}
		out = append(out, Object{Label: l.Label, What: what})
	}
	slices.SortFunc(out, func(a, b Object) int {
		return cmp.Or(cmp.Compare(b.ID, a.ID), cmp.Compare(a.What, b.What), cmp.Compare(a.Label, b.Label))
	})
	return out, nil
}

// Unfit tries every key in use, and says of each that cannot be used, or could not
// by an agent that is started now, why. Keys that are lost are in the Status.
func (t *Token) Unfit(ctx context.Context) (faults []error, err error) {
	listed, err := t.list(ctx)
	if err != nil {
		return nil, err
	}
	halves := map[string]wire.Found{}
	for _, f := range listed.Found {
		halves[f.ID] = f
	}
	for _, k := range alive(t.Keys()) {
		fault := t.try(ctx, k)
		switch f := halves[k.ID]; {
		case fault == nil && f.Private > 0 && f.Public == 0:
			fault = t.fail("check", k.String(), untrusted("its public half is gone; it is used until the agent is started anew, and not after"))
		case fault == nil || errors.Is(fault, ErrKeyLost):
			continue
		case errors.Is(fault, ErrClosed) || errors.Is(fault, ErrDeadline) || errors.Is(fault, errLost):
			return faults, fault // which says nothing about the key
		}
		if now, err := t.ledgerKey("check", k.ID); err == nil && now.alive() { // not destroyed meanwhile
			faults = append(faults, fault)
		}
	}
	return faults, nil
}

// try uses a key.
func (t *Token) try(ctx context.Context, k LedgerKey) error {
	key, err := t.Key(ctx, k.ID)
	if err != nil {
		return err
	}
	if k.Type.seals() {
		return t.trySeal(ctx, key)
	}
	return trySign(ctx, key)
}

func contents(f wire.Found) string {
	s := ""
	for _, c := range []struct {
		n    int
		name string
	}{
		{f.Private, "private key"}, {f.Public, "public key"}, {f.Secret, "secret key"}, {f.Certificates, "certificate"},
		{f.Others, "other object"}, {f.Unreadable, "unreadable object"},
	} {
		if c.n == 0 {
			continue
		}
		if s != "" {
			s += ", "
		}
		if c.n > 1 {
			s += fmt.Sprintf("%d times ", c.n)
		}
		s += c.name
	}
	return s
}

// StoreCertificate puts a certificate beside its key, in place of one stored
// before, so that programs which find both on the token can use them. The key
// must be ours and the certificate be for it.
func (t *Token) StoreCertificate(ctx context.Context, id string, der []byte) error {
	key, err := t.Key(ctx, id)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return t.fail("store certificate of", key.info.String(), fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	if string(cert.RawSubjectPublicKeyInfo) != string(key.spki) {
		return t.fail("store certificate of", key.info.String(), fmt.Errorf("%w: the certificate is for another key", ErrInvalid))
	}
	return t.call(ctx, request{name: "store certificate of", key: key.info.String(), op: wire.OpCertificate, alone: true},
		wire.Certificate{ID: id, Label: key.info.String(), DER: der}, nil)
}

// A need is a mechanism with what it has to be able to do.
type need struct{ mech, flags uint }

var (
	makeRSA = need{wire.MechRSAKeyGen, wire.FlagGenerateKeyPair}
	makeEC  = need{wire.MechECKeyGen, wire.FlagGenerateKeyPair}
	signRSA = need{wire.MechRSAPKCS, wire.FlagSign}
	signPSS = need{wire.MechRSAPSS, wire.FlagSign}
	signEC  = need{wire.MechECDSA, wire.FlagSign}
)

// needs are the mechanisms that a type of key takes, with the key size.
var needs = []struct {
	typ   KeyType
	mechs []need
	size  uint // 0 where mechanisms do not say
}{
	{RSA2048, []need{makeRSA, signRSA}, 2048},
	{RSA3072, []need{makeRSA, signRSA}, 3072},
	{RSA4096, []need{makeRSA, signRSA}, 4096},
	{ECDSAP256, []need{makeEC, signEC}, 256},
	{ECDSAP384, []need{makeEC, signEC}, 384},
	{ECDSAP521, []need{makeEC, signEC}, 521},
	{Ed25519, []need{{wire.MechEdKeyGen, wire.FlagGenerateKeyPair}, {wire.MechEdDSA, wire.FlagSign}}, 0},
	{sealAES, []need{{wire.MechAESKeyGen, wire.FlagGenerate}, {wire.MechAESGCM, wire.FlagEncrypt | wire.FlagDecrypt}}, 0},
	{sealRSA, []need{makeRSA, {wire.MechRSAOAEP, wire.FlagDecrypt}}, 2048},
}

// quirks are what modules do not say of themselves, and what would show at the first
// use only, which is too late.
var quirks = []struct {
	library string // its description begins so
	quirk
}{
	// It makes P-521 keys, and every signature with them ends with CKR_HOST_MEMORY.
	// It reads what is on the token when it is started, and never again.
	{"TPM2.0 Cryptoki", quirk{cannot: []KeyType{ECDSAP521}, stale: true}},
}

// A quirk is what a module does not say of itself.
type quirk struct {
	cannot []KeyType // types of keys that it offers in vain
	stale  bool      // it does not see what other processes change
}

func quirkOf(o *wire.Opened) quirk {
	for _, q := range quirks {
		if strings.HasPrefix(o.Library, q.library) {
			return q.quirk
		}
	}
	return quirk{}
}

// supported are the types of keys that the token says it can have, and can.
func supported(o *wire.Opened) []KeyType {
	var types []KeyType
	cannot := quirkOf(o).cannot
	for _, n := range needs {
		if !slices.Contains(cannot, n.typ) && !slices.ContainsFunc(n.mechs, func(of need) bool { return !offers(o, of, n.size) }) {
			types = append(types, n.typ)
		}
	}
	return types
}

func offers(o *wire.Opened, n need, size uint) bool {
	for _, m := range o.Mechanisms {
		if m.Type == n.mech {
			return m.Flags&n.flags == n.flags && (size == 0 || m.Max == 0 || m.Min <= size && size <= m.Max)
		}
	}
	return false
}

// warnings are what an operator should know of a token that is open; what to do about
// it comes after "; ".
func (t *Token) warnings(o *wire.Opened) []string {
	w := slices.Clone(o.Warnings)
	if o.Flags&wire.FlagWriteProtected != 0 {
		w = append(w, "the token is read-only: keys that are there work, new ones cannot be made; let it be written to before a key is due for rotation")
	}
	if o.Flags&wire.FlagPINToBeChanged != 0 {
		w = append(w, "the token wants its PIN changed; set a new one with the vendor's tool and write it where hsm.pin says")
	}
	if t.cfg.Lenient {
		w = append(w, "hsm.audit is lenient: keys are used even if the module would wrap them out")
	}
	return w
}

// limits says what the token cannot do.
func limits(o *wire.Opened) []string {
	var out []string
	can := supported(o)
	for _, n := range needs {
		if n.typ != sealRSA && n.typ != sealAES && !slices.Contains(can, n.typ) {
			out = append(out, "no keys of type "+string(n.typ))
		}
	}
	if !slices.Contains(can, sealAES) {
		if slices.Contains(can, sealRSA) {
			out = append(out, "no AES-GCM: the data key is sealed by RSA-OAEP")
		} else {
			out = append(out, "neither AES-GCM nor RSA-OAEP: nothing can be sealed")
		}
	}
	if !offers(o, signPSS, 0) {
		out = append(out, "no RSA-PSS: RSA keys cannot serve TLS 1.3")
	}
	if quirkOf(o).stale {
		out = append(out, "keys that other programs make or delete show only after the worker was started anew")
	}
	return out
}
