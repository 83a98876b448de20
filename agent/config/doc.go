// Package config reads the configuration file of the agent and says everything
// that is wrong with it at once.
//
// [Load] reads a file, [Parse] looks at its text alone: it opens no file and
// asks no one, so that a configuration can be checked on another machine.
// [Examine] looks too at what only the host itself can answer, such as whether the
// users that a policy names exist; `signet check` and the start of `signet run` are
// the same call.
//
// # Faults
//
// All faults of a file are in one [*Errors], in the order of the file, each as
//
//	FILE:LINE:COL: path.to.key: what is wrong; what to do
//
// Keys that are not known are faults, never ignored: a misspelt `max_stale`
// would otherwise be a secret that is served too long.
//
// # Defaults
//
// The zero field means what its comment says. Where that is not zero itself,
// the method that reads the field says so; nothing is merged into a Config.
//
// # Secrets
//
// No secret can be written into the file. Where one is needed the file names a
// [Source], which is read when it is used and not before.
package config
