// Package hsm keeps private keys in PKCS#11 tokens and signs with them.
//
// A [Token] is one token. Its keys are [crypto.Signer]s, so the rest of the
// agent needs to know nothing of PKCS#11. The vendor's library is loaded by a
// worker process (package hsm/worker), never by the daemon.
//
// # Keys and the ledger
//
// A key exists when the [Ledger] says so. Its CKA_ID is random and is written
// down as intended before the token is asked for it; it is called live only after
// both halves were found, its attributes were audited, attempts to get it out
// were refused, and a signature made with it was verified. Whatever else is
// found on the token is reported and left alone. The exceptions are the remains
// of our own interrupted generations: objects with the ID of an intent, and keys
// with neither name nor material, of the type of an intent whose generation was
// begun when the token had none such; see sweep.go.
//
// A Ledger is of several tokens. A row has the name of its token, and the serial number
// by which the token is known when it is opened under another name; see adopt.go. A key
// of another token is never unknown or lost, but [ErrElsewhere].
//
// # When the worker or the token goes away
//
// A worker that crashes, exceeds a deadline, or speaks of a lost session, device
// or token is replaced: at once, but not more often than once a second, and
// ever more slowly, to twice a minute, while the token cannot be opened. Calls
// wait for the replacement until their own deadline and are then made once more.
// Keys stay valid across this: those in use are found again by their CKA_ID when
// the token is opened, others when [Token.Key] is first asked for them, and none
// on the way to a signature: only one that is missing is looked for again when it
// is asked for, once a second at most. The first signature of a key by each worker is
// verified, because anybody who may write to the token can put another key there.
//
// # Logging in
//
// Tokens lock themselves after a few wrong PINs, some for good. A refused PIN
// is therefore not tried again on that token, by this process or a later one, until
// the PIN is another or an operator calls [Token.ClearPINGuard]. That a PIN is about to
// be tried is written down before, so that a crash cannot lead to a second try
// unnoticed.
//
// # Concurrency
//
// All methods may be called from several goroutines. No more requests are under
// way than the worker has sessions for; key generation runs alone.
package hsm
