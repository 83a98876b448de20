package hsm

import (
	"errors"
	"fmt"

	"github.com/signet-agent/signet/hsm/wire"
)

// What an [Error] can be, for [errors.Is].
var (
	// ErrClosed: the token is not open; what keeps it closed is in the text.
	ErrClosed = errors.New("token is not open")
	// ErrDeadline: the call took longer than Config.Timeout.
	ErrDeadline = errors.New("no answer in time")
	// ErrInvalid: what was asked for makes no sense, and was not tried.
	ErrInvalid = errors.New("invalid request")
	// ErrNoKey: the ledger knows no such key.
	ErrNoKey = errors.New("no such key")
	// ErrElsewhere: the ledger knows the key, and it is on another token than the one
	// that was asked.
	ErrElsewhere = errors.New("the key is on another token")
	// ErrKeyLost: the ledger knows the key, and it is not on the token.
	ErrKeyLost = errors.New("the key is not on the token")
	// ErrUntrusted: the key failed its checks and is not used.
	ErrUntrusted = errors.New("the key failed its checks")
	// ErrPIN: the PIN was refused, now or earlier, or could not be read.
	ErrPIN = errors.New("the PIN is not accepted")
	// ErrReplaced: the token is not the one that holds our keys.
	ErrReplaced = errors.New("this is another token")
	// ErrState: the ledger forbids it, such as destroying a key in use.
	ErrState = errors.New("the state of the key forbids it")
	// ErrSealed: the blob was changed, or was not sealed with this key.
	ErrSealed = errors.New("the blob was changed or sealed elsewhere")

	// errLost: the worker ended before it answered. It is not known whether the
	// call was carried out.
	errLost = errors.New("the worker ended before it answered")
	// errStart: there is no worker.
	errStart = errors.New("the worker cannot be started")
)

// An Error is a refusal by the token, its library, or this package.
type Error struct {
	Op    string // what was asked: "open", "log in", "sign"
	Token string // name of the token in the configuration
	Key   string // name#generation, or ID; may be empty
	CKR   uint   // the library's return value; 0 if it was not asked
	Name  string // CKR_..., or a name of ours where PKCS#11 has none; may be empty
	Err   error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("hsm %q: %s", e.Token, e.Op)
	if e.Key != "" {
		s += fmt.Sprintf(" key %q", e.Key)
	}
	return s + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Code is what kind of failure it is, in the words of the socket's API.
func (e *Error) Code() string {
	switch {
	case errors.Is(e, ErrInvalid), errors.Is(e, ErrState):
		return "invalid"
	case errors.Is(e, ErrNoKey):
		return "not-found"
	}
	return "unavailable"
}

// Hint says what an operator can do about it, or "".
func (e *Error) Hint() string {
	if h, ok := hints[e.Name]; ok {
		return h
	}
	switch {
	case errors.Is(e, ErrElsewhere):
		return "name that token under hsm: too, by any name: it is known by its serial number"
	case errors.Is(e, ErrKeyLost):
		return "if the token was restored from an old copy, restore a newer one; otherwise the item needs a new key: `signet rotate`"
	case errors.Is(e, ErrUntrusted):
		return "`signet key show` tells which check failed; the item needs a new key: `signet rotate`"
	case errors.Is(e, errStart):
		return "signet-hsm must be beside signet, or where hsm.worker says, be of the same version, and the user of signet may execute it"
	case errors.Is(e, ErrDeadline):
		return "see whether the vendor's tool reaches the token, and what its service logs; a module that only takes its time needs a longer hsm.timeout"
	case errors.Is(e, errLost):
		return "it is started anew by itself; if the vendor's library has crashed, the log has what it said last, and that of the kernel why"
	case errors.Is(e, ErrInvalid) && e.Op == "configure":
		return "correct hsm: in the configuration; `signet check` shows the place"
	}
	return ""
}

// tryAgain ends the hints of a PIN that is not tried again by itself.
const tryAgain = "; the same one is tried again only by `signet doctor --clear-pin-guard`"

var hints = map[string]string{
	"CKR_PIN_INCORRECT":            "correct the PIN where hsm.pin says, or hsm.token if it is for another token; a few more tries would lock the token" + tryAgain,
	"CKR_PIN_INVALID":              "the PIN has characters that the token does not take; correct it where hsm.pin says" + tryAgain,
	"CKR_PIN_LEN_RANGE":            "the PIN is too short or too long for the token; correct it where hsm.pin says" + tryAgain,
	"CKR_PIN_LOCKED":               "the token is locked; a security officer must set a new user PIN, then `signet doctor --clear-pin-guard`",
	"CKR_PIN_EXPIRED":              "the PIN has expired; set a new one with the vendor's tool and write it where hsm.pin says" + tryAgain,
	"CKR_USER_PIN_NOT_INITIALIZED": "the token has no user PIN yet; a security officer must set one",
	"CKR_DEVICE_ERROR":             "the token or the way to it does not work; see whether the vendor's tool reaches it, and what its service logs",
	"CKR_DEVICE_REMOVED":           "put the token back, or start the service that reaches it",
	"CKR_TOKEN_NOT_RECOGNIZED":     "the module cannot read this token; is hsm.module that of its vendor?",
	"CKR_SESSION_COUNT":            "all sessions of the token are taken, by this agent or by other programs; end those, or set hsm.sessions to fewer",
	"CKR_TOKEN_NOT_PRESENT":        "compare hsm.token with the labels that `pkcs11-tool --module ... -L` shows; can the user of signet read the token?",
	"CKR_TOKEN_WRITE_PROTECTED":    "the token is read-only: existing keys work, new ones cannot be made",
	"CKR_DEVICE_MEMORY":            "the token is full; `signet key list` shows what it holds, including keys that are not ours",
	"CKR_FUNCTION_FAILED":          "the module does not say why; often the token is full: `signet key list` shows what it holds",
	"CKR_GENERAL_ERROR":            "the module does not say why; can the user of signet write to the token, and is its device there?",
	"CKR_MECHANISM_INVALID":        "the token does not offer this algorithm; `signet doctor` lists what it offers",
	wire.NotAModule:                "hsm.module must be the path of the vendor's PKCS#11 library",
	wire.TokenAmbiguous:            "choose by serial: hsm.uri \"pkcs11:token=...;serial=...\"",
	wire.TokenReplaced: "put the former token back; if its keys were moved to this one, name its serial: hsm.uri \"pkcs11:token=...;serial=...\"; " +
		"if it was destroyed, docs/hsm.md says how to begin anew",
	wire.PINUnreadable: "check hsm.pin and the permissions of what it names",
	wire.PINEmpty:      "write the PIN where hsm.pin says; an empty one is never tried",
	wire.PINUnfinished: "the agent or the module ended twice while this PIN was being tried; " +
		"check it with the vendor's tool, then `signet doctor --clear-pin-guard`",
	wire.PINFinalTry:   "one wrong PIN more and the token is locked; log in with the vendor's tool and the right PIN, which sets the count back",
	wire.SandboxFailed: "the kernel refuses to confine the worker; hsm.sandbox: off does without",
	wire.KeyAmbiguous: "another key was put under the ID of ours, and none of the two is used; " +
		"see `signet key list`, and remove the one that is not ours with the vendor's tool",
	wire.SealBroken: "the blob was changed, belongs to another host, or its key is gone; restore the state directory that belongs to this token",
}
