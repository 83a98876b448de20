package postgres_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/signet-agent/signet/client"
	"github.com/signet-agent/signet/client/sqldb/postgres"
)

func Example() {
	agent := client.Open()
	defer agent.Close()
	c, err := postgres.New(agent, "db", "host=db.example dbname=shop sslmode=verify-full sslrootcert=/etc/ssl/db.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	db := sql.OpenDB(c)
	defer db.Close()
	fmt.Println(db.PingContext(context.Background()))
}
