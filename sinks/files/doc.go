// Package files writes secrets and certificates to files.
//
// A file appears complete or not at all: the content goes to a temporary file
// in the same directory, which is the agent's alone until it has its group,
// mode, ACL, label and owner, is synced, renamed, and the directory synced.
// Nothing is written when nothing changed. A file that somebody deletes, edits,
// or gives another mode or owner is put right within a second, and that is
// reported.
//
// # Sets
//
// A set is a symbolic link to a directory, its generation, which is complete
// before the link leads to it. One rename changes all of its files.
//
// # Generations
//
// Each delivery to a target, which is a file or a set, has a number that grows
// and that can be read off from the disk. The hooks of [Config] are told of it,
// and [Files.Rollback] puts the one before back.
//
// # When something goes wrong
//
// A file that cannot be written keeps its last good content and is tried again
// with back-off; the other files go on. A secret that expires while its upstream
// is away stays in its file as it was: what a consumer started with must not
// vanish under it. One that the upstream refuses is removed at once with all
// that holds it, and is never emptied.
//
// # Where files may be
//
// The directory has to exist, is reached without symbolic links, belongs to
// root, to the agent or to the owner of the file, and is not writable for
// everyone. All work is done relative to that directory once it is open, and no
// link in it is ever followed, so that the consumer cannot lead the agent
// elsewhere. A target that is a mount is written in place.
//
// # Concurrency
//
// All methods may be called from several goroutines. Files of different items
// do not wait for each other, nor do the checks of different directories, and
// [Files.Status] waits for nobody. A file system that hangs is waited for only
// briefly: what its files were told last they take up once it answers. The hooks
// are called with their targets locked and must not call Files, except InTurn,
// which is called with none.
package files
