// Package manager is the client of the Manager with locked vaults: it gets,
// renews and rotates the client certificate of a private account, and makes and
// lists that account's vaults.
//
// # Single use
//
// Registering and rotating can be done once: an answer that is lost cannot be
// asked for again. Issue therefore makes such a call exactly once, and reports
// by Error.Sent whether it may have been carried out. The caller writes key and
// CSR down before, and asks again with CertificateRequest.Uncertain; Issue then
// finds out what happened before it repeats anything, and fails with the code
// [upstream.Lost] when the Manager has carried the call out and only its
// administrator can help.
//
// # What a 401 says
//
// The Manager does not tell why it refuses a certificate. As far as the dates
// tell, the error's Remedy does.
package manager
