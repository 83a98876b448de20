// Package sqldb gives database/sql connections whose credential comes from the
// agent on this host and follows its rotations. A program uses one of the
// packages below it, each of which brings in the driver of one database:
//
//	agent := client.Open()
//	defer agent.Close()
//	c, err := postgres.New(agent, "db", "host=db.example dbname=shop sslmode=verify-full")
//	...
//	db := sql.OpenDB(c)
//
// # When the password changes
//
// Databases do not end connections when a password changes, and so a pool goes
// on with those it has. A new connection uses the newest credential that the
// agent has told this process of. Is its login refused, the [Connector] reports
// the version that did not work, takes the new one, and tries once more. Only
// if that fails too, or there is no new one, the caller gets the error. Logins
// that are refused at the same time share one report.
//
// A rotation changes the database first and is known to the agent a moment
// later, or the other way round. For that moment a refused login waits; see
// Connector.Patience.
//
// # When the password is wrong
//
// Databases lock accounts after some failed logins, and a pool opens many
// connections at once. So a credential that has not worked yet is tried by one
// login while the others wait until one has worked, and one that was refused is
// not tried again for a time that doubles from a second to a minute.
//
// # Concurrency
//
// All methods may be called from several goroutines.
package sqldb
