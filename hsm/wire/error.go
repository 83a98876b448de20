package wire

import "fmt"

// An Error is a refusal by the module, or by the worker before it.
type Error struct {
	CKR   uint   // 0 if the module was not asked
	Name  string // CKR_..., or one of the names below
	Text  string // what could not be done, without secrets
	Fatal bool   // the worker ends: only a new one can go on

	PINDigest []byte `json:",omitempty"` // of a PIN that was refused now, where Opened had none
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Name
	}
	return fmt.Sprintf("%s: %s", e.Text, e.Name)
}

// Names of refusals for which PKCS#11 has no code.
const (
	NotAModule     = "NOT_A_PKCS11_MODULE"
	TokenAmbiguous = "TOKEN_AMBIGUOUS"
	TokenReplaced  = "TOKEN_REPLACED"
	PINUnreadable  = "PIN_UNREADABLE"
	PINEmpty       = "PIN_EMPTY"
	PINUnfinished  = "PIN_UNFINISHED"
	PINFinalTry    = "PIN_FINAL_TRY"
	BadRequest     = "BAD_REQUEST"
	KeyMissing     = "KEY_MISSING"
	KeyVanished    = "KEY_VANISHED"
	KeyAmbiguous   = "KEY_AMBIGUOUS"
	SealBroken     = "SEAL_BROKEN"
	SandboxFailed  = "SANDBOX_FAILED"
)

// The return values of PKCS#11 that the daemon tells apart.
const (
	CKRGeneralError    = 0x5
	CKRPINIncorrect    = 0xa0
	CKRPINInvalid      = 0xa1
	CKRPINLenRange     = 0xa2
	CKRPINExpired      = 0xa3
	CKRPINLocked       = 0xa4
	CKRTokenNotPresent = 0xe0
)

// The flags of CK_TOKEN_INFO that the daemon looks at.
const (
	FlagWriteProtected = 0x2
	FlagLoginRequired  = 0x4
	FlagPINInitialized = 0x8
	FlagProtectedPath  = 0x100
	FlagTokenReady     = 0x400
	FlagPINCountLow    = 0x10000
	FlagPINFinalTry    = 0x20000
	FlagPINLocked      = 0x40000
	FlagPINToBeChanged = 0x80000
)

// The flags of CK_MECHANISM_INFO that the daemon looks at.
const (
	FlagEncrypt         = 0x100
	FlagDecrypt         = 0x200
	FlagSign            = 0x800
	FlagGenerate        = 0x8000
	FlagGenerateKeyPair = 0x10000
)

// The mechanisms that the daemon looks for among those of a token.
const (
	MechRSAKeyGen = 0x0000
	MechRSAPKCS   = 0x0001
	MechRSAOAEP   = 0x0009
	MechRSAPSS    = 0x000d
	MechECKeyGen  = 0x1040
	MechECDSA     = 0x1041
	MechEdKeyGen  = 0x1055
	MechEdDSA     = 0x1057
	MechAESKeyGen = 0x1080
	MechAESGCM    = 0x1087
)

// Mechanisms are all of these. Of others nothing is asked: a question to a token
// on the network takes a millisecond, and some have hundreds.
var Mechanisms = [...]uint{MechRSAKeyGen, MechRSAPKCS, MechRSAOAEP, MechRSAPSS, MechECKeyGen, MechECDSA, MechEdKeyGen, MechEdDSA, MechAESKeyGen, MechAESGCM}
