package worker

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// ckr gives a return value of the module the form in which it travels.
func ckr(text string, rv uint) *wire.Error {
	return &wire.Error{CKR: rv, Name: ckrName(rv), Text: text, Fatal: fatal(rv)}
}

// ckrName is the name of a return value, such as CKR_PIN_INCORRECT.
func ckrName(rv uint) string {
	if _, name, ok := strings.Cut(pkcs11.Error(rv).Error(), "CKR_"); ok {
		return "CKR_" + name
	}
	if rv >= pkcs11.CKR_VENDOR_DEFINED {
		return fmt.Sprintf("CKR_VENDOR_DEFINED+0x%X", rv-pkcs11.CKR_VENDOR_DEFINED)
	}
	return fmt.Sprintf("CKR_0x%X", rv)
}

// wireError is err as it travels. Errors that do not come from the module are
// told by their text and are not fatal.
func wireError(text string, err error) *wire.Error {
	var w *wire.Error
	if errors.As(err, &w) {
		return w
	}
	var e pkcs11.Error
	if errors.As(err, &e) {
		return ckr(text, uint(e))
	}
	return &wire.Error{Name: wire.BadRequest, Text: text + ": " + err.Error()}
}

// fatal reports whether, after this return value, only a new process helps.
func fatal(rv uint) bool {
	switch {
	case rv == pkcs11.CKR_DEVICE_MEMORY, rv == pkcs11.CKR_TOKEN_WRITE_PROTECTED:
		return false // the token is full, or cannot be written to: a new process changes nothing
	case rv >= pkcs11.CKR_SESSION_CLOSED && rv <= pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS,
		rv >= pkcs11.CKR_DEVICE_ERROR && rv <= pkcs11.CKR_DEVICE_REMOVED,
		rv >= pkcs11.CKR_TOKEN_NOT_PRESENT && rv <= pkcs11.CKR_TOKEN_NOT_RECOGNIZED:
		return true
	}
	switch rv {
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_MUTEX_BAD, pkcs11.CKR_MUTEX_NOT_LOCKED:
		return true
	case pkcs11.CKR_OPERATION_ACTIVE:
		return true // of a call that failed before: it stays for as long as the session does
	}
	return false
}

// broken is err if it says that no other answer is to be had from this process.
func broken(err error) error {
	var e pkcs11.Error
	if errors.As(err, &e) && fatal(uint(e)) {
		return err
	}
	return nil
}

// beyond is err if it is of more than the object that was asked about. Modules say
// CKR_GENERAL_ERROR of a single one that they cannot read.
func beyond(err error) error {
	if isCKR(err, pkcs11.CKR_GENERAL_ERROR) {
		return nil
	}
	return broken(err)
}

// isCKR reports whether err is one of these return values.
func isCKR(err error, rvs ...uint) bool {
	var e pkcs11.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, rv := range rvs {
		if uint(e) == rv {
			return true
		}
	}
	return false
}
