// Package senhasegura reads secrets from the A2A web service of senhasegura.
//
// A [Client] is one authorization at one vault. It logs in by OAuth 2.0 client
// credentials and reads credentials, protected information and the secrets of
// an application (DevOps Secret Manager). What goes wrong comes back as an
// [upstream.Error]; only the codes Denied and NotFound say anything of the item
// itself. A value that is empty, belongs to another item, or is the text by
// which the vault reports a failed encryption is such an error too and never a
// [upstream.Secret].
//
// # Custody
//
// Reading a credential takes it into the custody of the authorization, which
// may keep other readers out. [Client.Release] gives it back.
//
// # Time
//
// The vault writes times without a zone. They are read in Config.Zone and
// handed on as they are, without any margin.
//
// # Concurrency
//
// All methods may be called from several goroutines. They share one access
// token, fetched once for all of them.
package senhasegura
