// Package client lets a Go program use the agent on its host: its secrets,
// certificates, keys, access tokens and the REST interfaces behind it.
//
//	agent := client.Open()
//	defer agent.Close()
//	db, err := agent.Secret(ctx, "db")
//	...
//	connect(db.Fields["username"], db.Fields["password"])
//
// # What is kept
//
// [Client.Secret] and [Client.TLSConfig] keep what they have read in this
// process and follow the agent in the background, so that using them costs
// nothing and goes on while the agent restarts. A kept value is never used for
// longer than the agent said it may be. Every other method is one request.
//
// # When a value does not work
//
// A password may be changed a moment before the agent learns of it. A program
// that is refused calls [Client.Refused] with the version that did not work,
// and tries again with the secret it gets back.
//
// # When the agent is away
//
// A call fails with an [Error] whose Code is [Unavailable]. One that finds no
// one listening first waits for Client.Patience, as a restart takes moments.
//
// # Concurrency
//
// All methods may be called from several goroutines.
//
// The package imports nothing else of this module, so that using it brings no
// more than it needs into a program.
package client
