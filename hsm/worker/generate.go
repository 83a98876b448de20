package worker

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// generate makes a key that cannot leave the token. The ID is known to the
// daemon's ledger before this is called.
func (m *module) generate(req wire.Generate) (*wire.Found, error) {
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 || req.Label == "" {
		return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("generate key %q", req.ID)}
	}
	kind, known := kinds[req.Type]
	if !known {
		return nil, &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("generate key of type %q", req.Type)}
	}
	if err := m.writable(); err != nil {
		return nil, wireError("generate key", err)
	}
	for w := m.habit.wording; ; w++ {
		if err = m.generateAs(kind, id, req, w); err == nil {
			m.habit.wording = w // what the library has taken once is what it is asked from now on
			break
		}
		if w == lastWording || !m.balks(id, err) {
			return nil, wireError("generate key", err)
		}
	}
	f, err := m.find(wire.Find{ID: req.ID, Fresh: true})
	if err != nil {
		return nil, err
	}
	f.Narrow = m.habit.wording < lastWording && !(m.habit.rsaDecrypts && kind.keyType == pkcs11.CKK_RSA)
	return f, nil
}

// A wording is how much of what a key is for a template says. Private halves and
// secret keys are always for one use only, except in the last wording.
type wording int

const (
	bothHalves  wording = iota // what each half is for, and what it is not for
	privateHalf                // the same of the private half; nothing of the public one
	bareUses                   // what each half is for: the module adds what it likes
	lastWording = bareUses
)

// habits are what libraries want that is not told by their errors.
var habits = []struct {
	library string // its description begins so
	habit
}{
	// It takes what is said of the public half for the private one, and then fails
	// by CKR_GENERAL_ERROR, which may mean anything. It signs by PKCS#1 v1.5 with the
	// TPM's command to decrypt.
	{"TPM2.0 Cryptoki", habit{wording: privateHalf, rsaDecrypts: true}},
}

// A habit is what a library wants.
type habit struct {
	wording     wording // that of templates which it takes
	rsaDecrypts bool    // RSA keys that sign must be for decrypting too
}

func habitOf(library string) habit {
	for _, h := range habits {
		if strings.HasPrefix(library, h.library) {
			return h.habit
		}
	}
	return habit{}
}

// generateAs makes a key, by crypto11 where that adds nothing to the template.
func (m *module) generateAs(k kind, id []byte, req wire.Generate, w wording) error {
	publicFor, privateFor := uses(req.Type)
	if m.habit.rsaDecrypts && k.keyType == pkcs11.CKK_RSA && k.sigLen > 0 {
		privateFor = append(privateFor, pkcs11.CKA_DECRYPT)
	}
	public, private := templates(id, req, w, publicFor, privateFor)
	if m.c11 != nil && k.by11 != nil && w == bothHalves {
		return k.by11(m.c11, public, private)
	}
	return m.generateBy(k, public, private)
}

// balks reports whether a generation failed because of its template, and left
// nothing.
func (m *module) balks(id []byte, err error) bool {
	if !isCKR(err, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_READ_ONLY) {
		return false
	}
	left, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	return err == nil && len(left) == 0
}

// A kind is how a type of key is made: by crypto11 where it can, else directly.
type kind struct {
	by11    func(c *crypto11.Context, public, private crypto11.AttributeSet) error
	mech    uint
	keyType uint
	bits    int    // of a modulus
	params  []byte // of a curve
	sigLen  int    // 0 for a key that seals
}

var kinds = map[string]kind{
	wire.TypeRSA2048:   rsaKind(2048),
	wire.TypeRSA2048KE: sealing(rsaKind(2048)),
	wire.TypeRSA3072:   rsaKind(3072),
	wire.TypeRSA4096:   rsaKind(4096),
	wire.TypeP256:      ecKind(curves[0]),
	wire.TypeP384:      ecKind(curves[1]),
	wire.TypeP521:      ecKind(curves[2]),
	wire.TypeEd25519: {mech: ckmECEdwardsKeyGen, keyType: ckkECEdwards, sigLen: ed25519.SignatureSize,
		params: []byte{0x06, 0x03, 0x2b, 0x65, 0x70}}, // 1.3.101.112
	wire.TypeAES256: {mech: pkcs11.CKM_AES_KEY_GEN, keyType: pkcs11.CKK_AES,
		by11: func(c *crypto11.Context, _, secret crypto11.AttributeSet) error {
			_, err := c.GenerateSecretKeyWithAttributes(secret, 256, crypto11.CipherAES)
			return err
		}},
}

func rsaKind(bits int) kind {
	return kind{mech: pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, keyType: pkcs11.CKK_RSA, bits: bits, sigLen: bits / 8,
		by11: func(c *crypto11.Context, public, private crypto11.AttributeSet) error {
			_, err := c.GenerateRSAKeyPairWithAttributes(public, private, bits)
			return err
		}}
}

// sealing is a kind of key that does not sign.
func sealing(k kind) kind {
	k.sigLen = 0
	return k
}

func ecKind(named curve) kind {
	return kind{mech: pkcs11.CKM_EC_KEY_PAIR_GEN, keyType: pkcs11.CKK_EC, params: named.params, sigLen: 2 * named.size(),
		by11: func(c *crypto11.Context, public, private crypto11.AttributeSet) error {
			_, err := c.GenerateECDSAKeyPairWithAttributes(public, private, named.curve)
			return err
		}}
}

// generateBy makes what crypto11 cannot, and all keys of a library that crypto11
// cannot open.
func (m *module) generateBy(k kind, public, private crypto11.AttributeSet) error {
	set := func(s crypto11.AttributeSet, typ uint, v any) { _ = s.Set(typ, v) }
	mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(k.mech, nil)}
	if k.keyType == pkcs11.CKK_AES {
		set(private, pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)
		set(private, pkcs11.CKA_KEY_TYPE, k.keyType)
		set(private, pkcs11.CKA_VALUE_LEN, 32)
		_, err := m.ctx.GenerateKey(m.admin, mech, private.ToSlice())
		return err
	}
	set(public, pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)
	set(private, pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)
	set(public, pkcs11.CKA_KEY_TYPE, k.keyType)
	set(private, pkcs11.CKA_KEY_TYPE, k.keyType)
	if k.bits > 0 {
		set(public, pkcs11.CKA_MODULUS_BITS, k.bits)
		set(public, pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})
	} else {
		set(public, pkcs11.CKA_EC_PARAMS, k.params)
	}
	_, _, err := m.ctx.GenerateKeyPair(m.admin, mech, public.ToSlice(), private.ToSlice())
	return err
}

// The uses of a key that there are, by half.
var (
	privateUses = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
	publicUses  = []uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_VERIFY_RECOVER, pkcs11.CKA_WRAP, pkcs11.CKA_DERIVE}
	secretUses  = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}
)

// uses are what a type of key is for. A sealing key encrypts a data key; it wraps and
// unwraps nothing on the token.
func uses(typ string) (public, private []uint) {
	switch typ {
	case wire.TypeAES256:
		return nil, []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}
	case wire.TypeRSA2048KE:
		return []uint{pkcs11.CKA_ENCRYPT}, []uint{pkcs11.CKA_DECRYPT}
	}
	return []uint{pkcs11.CKA_VERIFY}, []uint{pkcs11.CKA_SIGN}
}

// templates are the attributes of both halves. They are sets, because modules
// differ in which of two equal attributes they take.
func templates(id []byte, req wire.Generate, w wording, publicFor, privateFor []uint) (public, private crypto11.AttributeSet) {
	public, private = crypto11.NewAttributeSet(), crypto11.NewAttributeSet()
	set := func(s crypto11.AttributeSet, typ uint, v any) { _ = s.Set(typ, v) } // fails on types of v not used here
	for _, s := range []crypto11.AttributeSet{public, private} {
		set(s, pkcs11.CKA_TOKEN, true)
		set(s, pkcs11.CKA_ID, id)
		set(s, pkcs11.CKA_LABEL, req.Label)
	}
	set(private, pkcs11.CKA_PRIVATE, true)
	set(private, pkcs11.CKA_SENSITIVE, true)
	set(private, pkcs11.CKA_EXTRACTABLE, false)
	say := func(s crypto11.AttributeSet, all, of []uint) {
		for _, use := range all {
			if is := slices.Contains(of, use); is || w != bareUses {
				set(s, use, is)
			}
		}
	}
	all := privateUses
	if req.Type == wire.TypeAES256 {
		all = secretUses
	}
	say(private, all, privateFor)
	if w != privateHalf {
		say(public, publicUses, publicFor)
	}
	return public, private
}

// destroy removes the key with an ID, the private half last: should it be cut short,
// what remains still says whose it is.
func (m *module) destroy(req wire.Destroy) error {
	if err := m.writable(); err != nil {
		return wireError("destroy key", err)
	}
	for _, h := range req.Loose {
		// Handles are good for the life of the process, but look again: only
		// what is still without name and material may go by handle.
		o := m.identify(pkcs11.ObjectHandle(h))
		if len(m.remainsOf(o)) == 0 {
			continue
		}
		if err := m.ctx.DestroyObject(m.admin, o.handle); err != nil {
			return wireError("destroy remains", err)
		}
	}
	if req.ID == "" {
		return nil
	}
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 {
		return &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("destroy key %q", req.ID)}
	}
	m.learn(id, nil)
	objects, err := m.carrying(id)
	if err != nil {
		return wireError("destroy key", err)
	}
	parts, several := parts(objects)
	if several {
		return &wire.Error{Name: wire.KeyAmbiguous, Text: "destroy key " + req.ID}
	}
	for _, o := range parts {
		if err := m.ctx.DestroyObject(m.admin, o.handle); err != nil {
			return wireError("destroy key", err)
		}
	}
	return nil
}

// parts are what a key consists of, of the objects with its ID: the private half last.
// What others have put there has another label, and stays; several says that there is
// such a private half, and so no telling which is ours. A certificate is stored once
// there is a key: one without is not ours. What cannot be read, and what has no label,
// is what a generation has left.
func parts(objects []object) (parts []object, several bool) {
	var last []object
	var label []byte
	for _, o := range objects {
		if o.err != nil || o.class != pkcs11.CKO_PRIVATE_KEY && o.class != pkcs11.CKO_SECRET_KEY {
			continue
		}
		last = append(last, o)
		several = several || len(label) > 0 && len(o.label) > 0 && !bytes.Equal(o.label, label)
		if len(o.label) > 0 {
			label = o.label
		}
	}
	for _, o := range objects {
		ours := len(label) == 0 || len(o.label) == 0 || bytes.Equal(o.label, label)
		if o.err != nil || o.class == unavailable || ours && (o.class == pkcs11.CKO_PUBLIC_KEY || o.class == pkcs11.CKO_CERTIFICATE && len(last) > 0) {
			parts = append(parts, o)
		}
	}
	return append(parts, last...), several
}
