package worker

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// InitToken is `signet-hsm init-token`: it makes a token in a slot that has none
// yet, with PINs that are read from files, so that they are in nobody's argument
// list. A token that is there already is never touched, except one that an
// earlier run has left without a user PIN. The library is confined as in the
// worker.
func InitToken(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("signet-hsm init-token", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var t newToken
	fs.StringVar(&t.module, "module", "", "path of the PKCS#11 library")
	fs.StringVar(&t.label, "label", "", "label of the new token")
	fs.StringVar(&t.pinFile, "pin-file", "", "file that holds the user PIN")
	fs.StringVar(&t.soPINFile, "so-pin-file", "", "file that holds the security officer's PIN")
	fs.BoolVar(&t.network, "network", false, "let the library use the network")
	fs.BoolVar(&t.free, "no-sandbox", false, "do not confine the library")
	if fs.Parse(args) != nil {
		return 2
	}
	if t.module == "" || t.label == "" || t.pinFile == "" || t.soPINFile == "" || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "signet-hsm init-token: --module, --label, --pin-file and --so-pin-file are all needed")
		return 2
	}
	if err := t.make(); err != nil {
		fmt.Fprintf(stderr, "signet-hsm init-token: %q: %v\n", t.label, err)
		return 1
	}
	return 0
}

// A newToken is a token to be made.
type newToken struct {
	module, label, pinFile, soPINFile string
	network, free                     bool
}

func (t newToken) make() error {
	if err := errors.Join(harden(), confine(!t.free, t.network)); err != nil {
		return err
	}
	pin, _, err := readPIN(wire.PINSource{File: t.pinFile})
	if err != nil {
		return err
	}
	soPIN, _, err := readPIN(wire.PINSource{File: t.soPINFile})
	if err != nil {
		return err
	}
	if _, err := loadCAPI(t.module); err != nil { // it says why, which miekg/pkcs11 does not
		return err
	}
	ctx := pkcs11.New(t.module)
	if ctx == nil {
		return &wire.Error{Name: wire.NotAModule, Text: "load " + t.module}
	}
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		return wireError("initialise module", err)
	}
	defer ctx.Finalize()
	// Strings cannot be erased; the process ends in a moment.
	return t.makeWith(ctx, string(pin), string(soPIN))
}

func (t newToken) makeWith(ctx *pkcs11.Ctx, pin, soPIN string) error {
	slot, info, err := slotOf(ctx, t.label)
	switch {
	case err != nil:
		return err
	case info != nil && info.Flags&wire.FlagPINInitialized != 0:
		return errors.New("there is a token with this label already")
	case info != nil:
		return setPIN(ctx, slot, pin, soPIN)
	}
	if slot, info, err = slotOf(ctx, ""); err != nil {
		return err
	}
	if info == nil {
		return errors.New("no slot without a token")
	}
	if err := ctx.InitToken(slot, soPIN, t.label); err != nil {
		return wireError("make the token", err)
	}
	if slot, info, err = slotOf(ctx, t.label); err != nil { // its slot may be another one now
		return err
	}
	if info == nil {
		return errors.New("the token was made and is not there")
	}
	return setPIN(ctx, slot, pin, soPIN)
}

func setPIN(ctx *pkcs11.Ctx, slot uint, pin, soPIN string) error {
	s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return wireError("open session", err)
	}
	defer ctx.CloseSession(s) //nolint:errcheck // the process ends
	if err := ctx.Login(s, pkcs11.CKU_SO, soPIN); err != nil {
		return wireError("log in as security officer", err)
	}
	defer ctx.Logout(s) //nolint:errcheck // the process ends
	if err := ctx.InitPIN(s, pin); err != nil {
		return wireError("set the user PIN", err)
	}
	return nil
}

// slotOf finds the token with that label; "" is one that is not initialised. It
// is nil if there is none.
func slotOf(ctx *pkcs11.Ctx, label string) (uint, *pkcs11.TokenInfo, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, nil, wireError("list slots", err)
	}
	for _, s := range slots {
		info, err := ctx.GetTokenInfo(s)
		if err != nil {
			return 0, nil, wireError(fmt.Sprintf("look at slot %d", s), err)
		}
		made := info.Flags&wire.FlagTokenReady != 0
		if label == "" && !made || label != "" && made && strings.TrimRight(info.Label, " \x00") == label {
			return s, &info, nil
		}
	}
	return 0, nil, nil
}
