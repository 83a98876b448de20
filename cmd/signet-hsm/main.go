// Command signet-hsm is the only part of Signet that loads a PKCS#11 library.
// It is started by signet and speaks to it over an inherited socket. By hand it
// is of use once, to make a token: signet-hsm init-token.
package main

import (
	"os"

	"github.com/signet-agent/signet/hsm/worker"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init-token" {
		os.Exit(worker.InitToken(os.Args[2:], os.Stderr))
	}
	os.Exit(worker.Main())
}
