// Package sqldbtest runs real databases and an agent for the tests of package
// sqldb, each under a directory that ends with the test.
//
// A database that is not installed skips the test, or fails it where
// SIGNET_NEED_SERVERS is set. Started by root, it runs as the user that its
// Debian package made, since PostgreSQL refuses root.
package sqldbtest
