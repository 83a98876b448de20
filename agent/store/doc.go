// Package store keeps what the agent must not forget, in one SQLite file in the
// state directory: the ledger of keys, the records of certificates, the sealed
// secrets, and small things by name.
//
// What it is given it keeps as it is; sealing secrets is the caller's work. No
// value in the file is readable that was not readable when it was given.
//
// # Durable
//
// A method that writes returns when the write is on stable storage, and an
// error means that nothing of it is. Writes that wait at the same time share
// one sync.
//
// # One process
//
// A [Store] holds a lock on its directory: a second agent with the same
// state_dir does not start. The lock goes with the process, however it ends.
//
// # When the file is damaged
//
// [Open] sets a damaged file aside under another name and goes on from the copy
// that [Store.Copy] made last, or begins a new one. [Store.Damaged] then says
// so, for the log and the status. What a copy does not know, keys above all, is
// still in the HSM and reported; secrets are fetched anew.
//
// # Concurrency
//
// All methods may be called from several goroutines.
package store
