package worker

import (
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// crypto11Sessions is how many sessions crypto11 holds: one that keeps the
// module open, and one to generate keys with. A third is for all else that is
// not signing, see [wire.Lanes].
const crypto11Sessions = 2

// A module is the library with one token of it open.
type module struct {
	path string
	c    capi
	ctx  *pkcs11.Ctx
	c11  *crypto11.Context // nil for a library that wants arguments, which it cannot give, and for a token that is write-protected
	args *reserved         // what the library is initialised with; nil for nothing
	slot uint
	info pkcs11.TokenInfo
	pin  []byte // read, not yet tried
	// digested: the daemon was told the digest of the PIN
	digested bool

	gate gate // says that keys may have other handles

	habit     habit // what the library wants of templates
	protected bool  // no session could write when the token was opened; set before there are signers

	admin   pkcs11.SessionHandle // of the goroutine that carries out all but signing
	signers int                  // number of signing sessions
	index   index

	searched int                                       // how many keys were searched for by their ID
	passed   map[uint]map[string][]pkcs11.ObjectHandle // what a pass over a class has found, by CKA_ID
}

// open loads the library, finds the token and opens a session on it.
func open(req wire.Open) (*module, *wire.Opened, error) {
	if err := confine(req.Sandbox, req.Network); err != nil {
		return nil, nil, &wire.Error{Name: wire.SandboxFailed, Text: err.Error()}
	}
	c, werr := loadCAPI(req.Module)
	if werr != nil {
		return nil, nil, werr
	}
	ctx := pkcs11.New(req.Module)
	if ctx == nil {
		return nil, nil, &wire.Error{Name: wire.NotAModule, Text: "load " + req.Module}
	}
	m := &module{path: req.Module, c: c, ctx: ctx, args: newReserved(req.InitArgs), gate: newGate(),
		passed: map[uint]map[string][]pkcs11.ObjectHandle{}}
	if err := m.start(req.Token); err != nil {
		return nil, nil, err
	}
	warnings, err := m.readPIN(req)
	if err != nil {
		return nil, nil, err
	}
	if m.admin, err = m.session(); isCKR(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		m.protected = true
		m.admin, err = m.session()
	}
	if err != nil {
		return nil, nil, wireError("open session", err)
	}
	states := m.info
	if m.protected {
		states.MaxRwSessionCount = unavailable // as no session of ours writes
	}
	if m.signers = signers(req.Sessions, states); m.signers < 1 {
		return nil, nil, tooFewSessions(m.signers + crypto11Sessions + 1)
	}
	opened, err := m.describe()
	if err != nil {
		return nil, nil, err
	}
	opened.Warnings, m.habit = warnings, habitOf(opened.Library)
	opened.PINQuick = quickDigest(m.pin, req.QuickKey)
	if !hmac.Equal(opened.PINQuick, req.Accepted) {
		// This takes its time; one that is accepted need not be told from others.
		if opened.PINDigest, err = pinDigest(m.pin, req.Salt); err != nil {
			return nil, nil, wireError("read PIN", err)
		}
		m.digested = true
	}
	return m, opened, nil
}

// start initialises the library for the life of the process, and finds the token.
// crypto11 wants to be the one who initialises it, and to be told of a token before
// that. It is told of the one with the right label or serial, and only if that is
// not the one, of the right slot, which takes a second start: SoftHSM reads all its
// objects at each.
func (m *module) start(sel wire.Selector) error {
	if m.args != nil {
		return m.startAlone(sel)
	}
	named := crypto11.Config{TokenSerial: sel.Serial}
	if sel.Serial == "" {
		named.TokenLabel = sel.Label
	}
	err := m.hold(named)
	if lack := (*wire.Error)(nil); errors.As(err, &lack) {
		return lack
	}
	if isCKR(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		return m.startAlone(sel)
	}
	if err == nil {
		first, err := m.choose(sel)
		if err != nil || first == m.slot {
			return err
		}
		_ = m.c11.Close()
	}
	if err := m.initialize(); err != nil {
		return wireError("initialise module", err)
	}
	_, err = m.choose(sel)
	if err := errors.Join(err, m.ctx.Finalize()); err != nil {
		return wireError("find token", err)
	}
	slot := int(m.slot)
	if err := m.hold(crypto11.Config{SlotNumber: &slot}); isCKR(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED) {
		return m.startAlone(sel)
	} else if err != nil {
		return wireError("open token", err)
	}
	if _, err := m.choose(sel); err != nil {
		return err
	}
	if m.slot != uint(slot) {
		return &wire.Error{Name: "CKR_TOKEN_NOT_PRESENT", CKR: wire.CKRTokenNotPresent, Text: "open token: it changed while it was opened"}
	}
	return nil
}

// startAlone is start without crypto11, which can give a library no arguments, and
// wants to write to every token.
func (m *module) startAlone(sel wire.Selector) error {
	if err := m.initialize(); err != nil {
		return wireError("initialise module", err)
	}
	_, err := m.choose(sel)
	return err
}

// hold has crypto11 initialise the library. It is told not to log in: it would
// keep the PIN, and take a wrong one for right if the process is logged in already.
func (m *module) hold(cfg crypto11.Config) (err error) {
	defer func() {
		if recover() != nil { // of its pool, which has room for one session less
			err = tooFewSessions(1)
		}
	}()
	cfg.Path, cfg.MaxSessions, cfg.LoginNotSupported = m.path, crypto11Sessions, true
	m.c11, err = crypto11.Configure(&cfg)
	return err
}

func (m *module) initialize() error {
	if m.args != nil {
		return m.ctx.Initialize(pkcs11.InitializeWithReserved(m.args.pointer()))
	}
	return m.ctx.Initialize()
}

// signers is how many sessions are left for signing of those that the
// configuration and the token allow. All sessions that are opened here may write.
func signers(configured int, info pkcs11.TokenInfo) int {
	n := uint(configured)
	for _, most := range []uint{info.MaxSessionCount, info.MaxRwSessionCount} {
		if most != pkcs11.CK_EFFECTIVELY_INFINITE && most != pkcs11.CK_UNAVAILABLE_INFORMATION {
			n = min(n, most)
		}
	}
	return wire.Lanes(int(n))
}

func tooFewSessions(most int) *wire.Error {
	text := fmt.Sprintf("open sessions: the token can have %d, and %d are needed", most, wire.MinSessions)
	return ckr(text, pkcs11.CKR_SESSION_COUNT)
}

// choose finds the one token that sel means. first is the slot of the first token
// with the serial, or where none is given the label, of sel.
func (m *module) choose(sel wire.Selector) (first uint, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, wireError("list slots", err)
	}
	first = unavailable
	var matches, others []string
	var silent error // the answer of a slot that does not say what token it has
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if isCKR(err, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED) {
			continue // a reader without token, or a token that is not ours to judge
		}
		if err != nil {
			silent = err
			continue
		}
		if first == unavailable && (sel.Serial != "" && info.SerialNumber == sel.Serial || sel.Serial == "" && info.Label == sel.Label) {
			first = slot
		}
		if info.Flags&wire.FlagTokenReady == 0 {
			continue // blank: it has neither label nor PIN
		}
		name := fmt.Sprintf("%q (serial %s)", info.Label, info.SerialNumber)
		if !means(sel, info) {
			others = append(others, name)
			continue
		}
		m.slot, m.info = slot, info
		matches = append(matches, name)
	}
	switch len(matches) {
	case 0:
		text := "find token " + describe(sel) + ": the module shows no token"
		if len(others) > 0 {
			text = "find token " + describe(sel) + ": the module shows only " + strings.Join(others, ", ")
		}
		if silent != nil {
			return first, wireError(text+", and fails to show another", silent)
		}
		return first, &wire.Error{CKR: wire.CKRTokenNotPresent, Name: ckrName(wire.CKRTokenNotPresent), Text: text}
	case 1:
		return first, nil
	}
	return first, &wire.Error{Name: wire.TokenAmbiguous, Text: "find token " + describe(sel) + ": it could be " + strings.Join(matches, " or ")}
}

func means(sel wire.Selector, info pkcs11.TokenInfo) bool {
	return (sel.Label == "" || sel.Label == info.Label) &&
		(sel.Serial == "" || sel.Serial == info.SerialNumber) &&
		(sel.Manufacturer == "" || sel.Manufacturer == info.ManufacturerID) &&
		(sel.Model == "" || sel.Model == info.Model)
}

// describe says what is looked for.
func describe(sel wire.Selector) string {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"label", sel.Label}, {"serial", sel.Serial}, {"manufacturer", sel.Manufacturer}, {"model", sel.Model}} {
		if p.value != "" {
			parts = append(parts, fmt.Sprintf("%s %q", p.name, p.value))
		}
	}
	return strings.Join(parts, ", ")
}

// readPIN reads the PIN, unless the token asks for none.
func (m *module) readPIN(req wire.Open) (warnings []string, err error) {
	if m.info.Flags&wire.FlagLoginRequired == 0 || m.info.Flags&wire.FlagProtectedPath != 0 {
		return nil, nil
	}
	pin, warning, err := readPIN(req.PIN)
	if err != nil {
		return nil, err
	}
	if pin == nil {
		return nil, &wire.Error{Name: wire.PINUnreadable, Text: "read PIN: the token asks for one, and no source of it is configured"}
	}
	if warning != "" {
		warnings = []string{warning}
	}
	m.pin = pin
	return warnings, nil
}

// describe tells the daemon what was opened.
func (m *module) describe() (*wire.Opened, error) {
	o := &wire.Opened{
		Label: m.info.Label, Serial: m.info.SerialNumber, Flags: m.info.Flags, Sessions: m.signers,
	}
	if info, err := m.ctx.GetInfo(); err == nil {
		o.Library = fmt.Sprintf("%s %d.%d", info.LibraryDescription, info.LibraryVersion.Major, info.LibraryVersion.Minor)
	}
	if m.protected {
		o.Flags |= wire.FlagWriteProtected
	}
	mechs, err := m.ctx.GetMechanismList(m.slot)
	if err != nil {
		return nil, wireError("list mechanisms", err)
	}
	for _, mech := range mechs {
		if !slices.Contains(wire.Mechanisms[:], mech.Mechanism) {
			continue
		}
		info, err := m.ctx.GetMechanismInfo(m.slot, []*pkcs11.Mechanism{mech})
		if broken(err) != nil {
			return nil, wireError("list mechanisms", err)
		}
		if err != nil {
			continue // listed and then not known: as good as not there
		}
		o.Mechanisms = append(o.Mechanisms, wire.Mechanism{Type: mech.Mechanism, Min: info.MinKeySize, Max: info.MaxKeySize, Flags: info.Flags})
	}
	return o, nil
}

// login logs in, with one call and no second try. The login holds for all
// sessions of the process.
func (m *module) login(req wire.Login) error {
	if m.info.Flags&wire.FlagLoginRequired == 0 {
		return nil
	}
	defer func() {
		clear(m.pin)
		m.pin = nil
	}()
	rv := m.c.login(m.admin, m.pin)
	if rv == pkcs11.CKR_OK {
		return nil
	}
	err := ckr("log in", rv)
	if !m.digested {
		// It was accepted before, and is no more: now it has to be remembered.
		digest, digestErr := pinDigest(m.pin, req.Salt)
		if digestErr != nil {
			return wireError("log in", digestErr)
		}
		err.PINDigest = digest
	}
	return err
}

func (m *module) session() (pkcs11.SessionHandle, error) {
	if m.protected {
		return m.ctx.OpenSession(m.slot, pkcs11.CKF_SERIAL_SESSION)
	}
	return m.ctx.OpenSession(m.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
}

// writable says why nothing can be changed on the token, if that is so. That a token
// was protected when it was opened does not mean that it still is.
func (m *module) writable() error {
	if !m.protected {
		return nil
	}
	s, err := m.ctx.OpenSession(m.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	_ = m.ctx.CloseSession(m.admin)
	m.admin = s
	return nil
}

// health asks whether the token still answers, is the same, and has the key
// that is known to be on it. C_GetSessionInfo would not do: SoftHSM answers it
// well when the token is gone.
func (m *module) health(req wire.Health) error {
	info, err := m.ctx.GetTokenInfo(m.slot)
	if err != nil {
		e := wireError("check token", err)
		e.Fatal = true
		return e
	}
	if info.SerialNumber != req.Serial {
		return &wire.Error{Name: wire.TokenReplaced, Fatal: true, Text: fmt.Sprintf("check token: serial is %s, was %s", info.SerialNumber, req.Serial)}
	}
	if req.ID == "" {
		return nil
	}
	id, err := hex.DecodeString(req.ID)
	if err != nil {
		return &wire.Error{Name: wire.BadRequest, Text: "check token"}
	}
	objects, err := m.carrying(id)
	if err != nil {
		e := wireError("check token", err)
		e.Fatal = true
		return e
	}
	if found := count(req.ID, objects); found.Private == 0 && found.Secret == 0 {
		return &wire.Error{Name: wire.KeyVanished, Fatal: true, Text: "check token: key " + req.ID + " is no longer there"}
	}
	return nil
}

// close ends well: some tokens hold on to sessions that were not closed. Nothing
// else is under way then.
func (m *module) close() {
	_ = m.ctx.CloseAllSessions(m.slot)
	_ = m.ctx.Finalize()
}
