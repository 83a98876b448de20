package client_test

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/signet-agent/signet/client"
)

// An app reads a secret where it uses it, and says so if it did not work.
func Example() {
	ctx := context.Background()
	agent := client.Open()
	defer agent.Close()

	call := func(token string) (refused bool) { return token == "" }
	s, err := agent.Secret(ctx, "api")
	if err == nil && call(s.Fields["token"]) {
		if s, err = agent.Refused(ctx, "api", s.Version); err == nil {
			call(s.Fields["token"])
		}
	}
	if err != nil {
		fmt.Println(err)
	}
}

// A server whose certificate follows renewals and rotations.
func ExampleClient_TLSConfig() {
	agent := client.Open()
	defer agent.Close()
	config, err := agent.TLSConfig(context.Background(), "web")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &http.Server{Addr: ":8443", TLSConfig: config}
	fmt.Println(server.ListenAndServeTLS("", ""))
}

// Calls of an upstream's REST interface, by its access token or without any
// credential in this process.
func ExampleClient_TokenSource() {
	ctx := context.Background()
	agent := client.Open()
	defer agent.Close()
	direct := oauth2.NewClient(ctx, agent.TokenSource(ctx, "pam"))
	proxied := &http.Client{Transport: agent.Transport("pam")}
	for _, c := range []*http.Client{direct, proxied} {
		resp, err := c.Get("https://vault.example/iso/pam/credential/robot-test-5")
		if err == nil {
			resp.Body.Close()
		}
	}
}
