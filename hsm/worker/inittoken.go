package worker

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/miekg/pkcs11"
)

// InitToken is `signet-hsm init-token`: it makes a token in a slot that has none
// yet, with PINs that are read from files, so that they are in nobody's argument
// list. A token that is there already is never touched.
func InitToken(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("signet-hsm init-token", flag.ContinueOnError)
	fs.SetOutput(stderr)
	module := fs.String("module", "", "path of the PKCS#11 library")
	label := fs.String("label", "", "label of the new token")
	pinFile := fs.String("pin-file", "", "file that holds the user PIN")
	soPINFile := fs.String("so-pin-file", "", "file that holds the security officer's PIN")
	if fs.Parse(args) != nil {
		return 2
	}
	if *module == "" || *label == "" || *pinFile == "" || *soPINFile == "" || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "signet-hsm init-token: --module, --label, --pin-file and --so-pin-file are all needed")
		return 2
	}
	if err := initToken(*module, *label, *pinFile, *soPINFile); err != nil {
		fmt.Fprintf(stderr, "signet-hsm init-token: %q: %v\n", *label, err)
		return 1
	}
	return 0
}

func initToken(module, label, pinFile, soPINFile string) error {
	pin, err := pinFrom(pinFile)
	if err != nil {
		return err
	}
	soPIN, err := pinFrom(soPINFile)
	if err != nil {
		return err
	}
	ctx := pkcs11.New(module)
	if ctx == nil {
		return fmt.Errorf("%s: is not a PKCS#11 library", module)
	}
	defer ctx.Destroy()
	if err := ctx.Initialize(); err != nil {
		return fmt.Errorf("initialize the library: %w", err)
	}
	defer ctx.Finalize()
	if _, found, err := slotOf(ctx, label); err != nil || found {
		if err == nil {
			err = errors.New("there is a token with this label already")
		}
		return err
	}
	blank, found, err := slotOf(ctx, "")
	if err != nil {
		return err
	}
	if !found {
		return errors.New("no slot without a token")
	}
	if err := ctx.InitToken(blank, soPIN, label); err != nil {
		return fmt.Errorf("make the token: %w", err)
	}
	slot, found, err := slotOf(ctx, label) // its slot may be another one now
	if err != nil || !found {
		if err == nil {
			err = errors.New("the token was made and is not there")
		}
		return err
	}
	s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	if err := ctx.Login(s, pkcs11.CKU_SO, soPIN); err != nil {
		return fmt.Errorf("log in as security officer: %w", err)
	}
	if err := ctx.InitPIN(s, pin); err != nil {
		return fmt.Errorf("set the user PIN: %w", err)
	}
	return nil
}

// slotOf finds the slot of the token with that label; "" is a slot whose token
// is not initialized.
func slotOf(ctx *pkcs11.Ctx, label string) (uint, bool, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, false, fmt.Errorf("list the slots: %w", err)
	}
	for _, s := range slots {
		info, err := ctx.GetTokenInfo(s)
		if err != nil {
			return 0, false, fmt.Errorf("look at slot %d: %w", s, err)
		}
		made := info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0
		if label == "" && !made || label != "" && made && strings.TrimRight(info.Label, " \x00") == label {
			return s, true, nil
		}
	}
	return 0, false, nil
}

func pinFrom(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 {
		return "", fmt.Errorf("%s: is empty", path)
	}
	return string(b), nil
}
