package wire

// An Op says what a frame asks for.
type Op uint8

// The operations. The first three open the token, in this order.
const (
	OpOpen        Op = iota + 1 // Open -> Opened
	OpLogin                     // Login -> nothing
	OpResolve                   // Resolve -> Resolved
	OpList                      // nothing -> Listed
	OpSign                      // Sign -> signature
	OpFind                      // Find -> Found
	OpGenerate                  // Generate -> Found
	OpDestroy                   // Destroy -> nothing
	OpAudit                     // Find -> Audited
	OpEncrypt                   // Cipher -> Ciphered
	OpDecrypt                   // Cipher -> Ciphered
	OpHealth                    // Health -> nothing
	OpCertificate               // Certificate -> nothing
	OpClose                     // nothing -> nothing, then the worker ends
	OpError       Op = 0xff     // a reply only: Error
)

// Open loads the module and chooses the token, without logging in.
type Open struct {
	Module   string
	InitArgs string // for C_Initialize, of the few modules that need some
	Token    Selector
	PIN      PINSource
	Salt     []byte // for Opened.PINDigest
	QuickKey []byte // for Opened.PINQuick
	Accepted []byte // PINQuick of the PIN that the token accepted before; may be nil
	Sessions int    // how many the worker may hold open at once
	Sandbox  bool   // give up what no module needs
	Network  bool   // but not the network, which this one needs
}

// A Selector says which token is meant. Empty fields match every token.
type Selector struct {
	Label, Serial, Manufacturer, Model string
}

// A PINSource says where the worker reads the PIN. Exactly one field is set, or
// none for a token that asks for no PIN.
type PINSource struct {
	File, Credential, Env string
}

// Lanes is how many lanes there are to a worker that may hold so many sessions
// open: three of them are not for signing.
func Lanes(sessions int) int { return sessions - MinSessions + 1 }

// MinSessions is how many sessions a worker needs at least.
const MinSessions = 4

// Opened tells what was opened.
type Opened struct {
	Label, Serial string

	Library    string      // the module's own description of itself
	Flags      uint        // CKF_... of CK_TOKEN_INFO
	Sessions   int         // how many signatures can be under way at once
	Mechanisms []Mechanism // those of the list in this package that it has
	PINQuick   []byte      // of the PIN read, by a key that is never kept; nil without PIN
	PINDigest  []byte      // of the PIN read, by the salt of the request; nil without PIN, or if it is the one accepted before
	Warnings   []string
}

// Login logs in with the PIN that was read.
type Login struct {
	Salt []byte // for Error.PINDigest
}

// A Mechanism is one that the token offers.
type Mechanism struct {
	Type     uint
	Min, Max uint // key sizes, in the unit of the mechanism
	Flags    uint
}

// Resolve asks for the keys that are going to be used, so that nothing has to be
// searched for when they are.
type Resolve struct{ Keys []Wanted }

// Wanted is a key of the ledger.
type Wanted struct {
	ID   string // hex CKA_ID
	Type string // as in Generate
}

// Resolved is the answer to Resolve.
type Resolved struct {
	Missing []string // the IDs that no private or secret key has
}

// Listed is everything on the token.
type Listed struct {
	Found []Found // by CKA_ID
	Loose []Loose // objects without one
}

// Find asks for what carries an ID.
type Find struct {
	ID    string // hex CKA_ID
	Fresh bool   // what an earlier pass over the token has found will not do
	Show  bool   // with Fresh: how the key is used stays as it is
}

// Found is what carries an ID: a whole key pair has one private and one public
// half.
type Found struct {
	ID                                    string // hex CKA_ID
	Label                                 string
	Private, Public, Secret, Certificates int
	Others                                int    // objects that are no keys or certificates
	Unreadable                            int    // objects whose attributes could not be read
	Type                                  string // as in Generate, in the answer to Find; "" if not one of these
	SPKI                                  []byte // DER, in the answer to Find; if there
	Narrow                                bool   // in the answer to Generate: the module was told what the key is not for
	Certificate                           []byte // DER of one stored beside the key, in the answer to a fresh Find
}

// Loose is an object without a CKA_ID.
type Loose struct {
	Handle uint64
	Class  string
	Label  string
	// Remains is what the types of keys begin with whose generation, cut short, can
	// have left this: it has neither a label nor key material. None for all else.
	Remains []string
}

// Generate makes a key that cannot leave the token.
type Generate struct {
	ID    string // hex CKA_ID
	Label string
	Type  string
}

// The types of keys.
const (
	TypeRSA2048   = "rsa-2048"
	TypeRSA3072   = "rsa-3072"
	TypeRSA4096   = "rsa-4096"
	TypeP256      = "ecdsa-p256"
	TypeP384      = "ecdsa-p384"
	TypeP521      = "ecdsa-p521"
	TypeEd25519   = "ed25519"
	TypeAES256    = "aes-256"       // a sealing key
	TypeRSA2048KE = "rsa-2048-oaep" // a sealing key where the token has no AES-GCM
)

// Destroy removes keys with an ID, or loose objects by handle.
type Destroy struct {
	ID    string
	Loose []uint64
}

// Audited is what the module says of a private or secret key, and what it did
// when asked to give it away.
type Audited struct {
	Attributes map[string]any // CKA_... name to bool, number, or nil where the module does not say
	Read       string         // outcome of reading the private value: see the constants
	ReadBy     string         // what was read, or how it failed
	Wrap       string         // outcome of wrapping the key
	WrapBy     string         // what it was wrapped with, or why that could not be tried
}

// The outcomes of trying to get a key out.
const (
	Refused  = "refused"
	Allowed  = "allowed"
	Untested = "untested" // the token has nothing to try it with
	Unclear  = "unclear"  // it failed in a way that says nothing of the key
)

// A Cipher asks to encrypt or decrypt a few bytes with a sealing key.
type Cipher struct {
	ID        string
	Mechanism string // CipherGCM or CipherOAEP...
	IV, AAD   []byte // for CipherGCM
	Data      []byte
}

// The ways of sealing.
const (
	CipherGCM     = "aes-256-gcm"
	CipherOAEP256 = "rsa-oaep-sha256"
	CipherOAEP1   = "rsa-oaep-sha1"
)

// Ciphered is the answer to Cipher.
type Ciphered struct{ Data []byte }

// Health asks whether the token is still there, and still this one.
type Health struct {
	Serial string
	ID     string // of a key that must be there; may be empty
}

// Certificate puts a certificate beside its key, in place of one stored before.
type Certificate struct {
	ID    string
	Label string
	DER   []byte
}
