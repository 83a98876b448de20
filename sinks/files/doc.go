// Package files writes secrets and certificates to files.
//
// A file appears complete or not at all: the content goes to a temporary file
// in the same directory, which has its owner and mode before anything is in it,
// is synced, renamed, and the directory synced. Nothing is written when nothing
// changed. A file that somebody deletes, edits, or gives another mode or owner
// is put right within a second, and that is reported.
//
// # When something goes wrong
//
// A file that cannot be written keeps its last good content and is tried again
// with back-off; the other files go on. An item that expires or that the
// upstream withdraws stays in its file as it was: what a consumer started with
// must not vanish under it. It is not put back any more if it is changed.
//
// # Where files may be
//
// The directory has to exist, is reached without symbolic links, belongs to
// root, to the agent or to the owner of the file, and is not writable for
// everyone. All work is done relative to that directory once it is open, and no
// link in it is ever followed, so that the consumer cannot lead the agent
// elsewhere.
//
// # Concurrency
//
// All methods may be called from several goroutines. Files of different paths
// do not wait for each other.
package files
