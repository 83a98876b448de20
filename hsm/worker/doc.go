// Package worker is the PKCS#11 side of Signet: the only code that loads a
// vendor's library.
//
// It runs as a process of its own, started by the daemon over an inherited
// socket pair, because such a library may crash, hang or leak, and because some
// recover only by being loaded anew. The worker therefore does not try to
// recover: an error that speaks of a session, the device, the token or the
// library as a whole is answered, marked fatal, and the process ends. It ends
// too when the daemon does.
//
// The worker decides nothing. Which token is meant, whether a PIN may be tried,
// what an algorithm signs: all of that is settled in package hsm before a
// request is sent.
//
// # Sessions and locks
//
// Signatures are asked for on lanes: a fixed number of goroutines, each with a
// pair of pipes and a session of its own, so the number of sessions and of
// operating system threads is bounded. All other requests come over the socket and
// are carried out one after the other. Key generation and destruction run alone:
// SoftHSM corrupts its objects when another thread searches meanwhile. The daemon
// sees to that; the worker has no lock for it.
//
// # What it holds
//
// How a key is used is looked up once, see resolve.go: the token is not searched
// to open it, for more than the keys in use, nor to sign. An idle worker gives
// back what memory it does not need, see memory.go.
//
// # Two libraries
//
// crypto11 initialises the module, holds it open and generates RSA, ECDSA and
// AES keys. Its known weaknesses are fenced: it never sees the PIN, holds two
// sessions, and is not asked to search, sign or seal. That is done on
// miekg/pkcs11, and what is done with secrets by one crossing into C, see capi.go.
// Signatures are made in C as long as nothing else is asked for, see lane.go. A
// module that wants arguments for its initialisation, which crypto11 cannot give,
// is used without it. Where templates have to say less, keys are generated without.
package worker
