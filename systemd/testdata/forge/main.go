// Command forge connects to a socket from an abstract address of its choice, as
// anybody can, and prints how much it is answered.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	from, to := &net.UnixAddr{Name: os.Args[1], Net: "unix"}, &net.UnixAddr{Name: os.Args[2], Net: "unix"}
	c, err := net.DialUnix("unix", from, to)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	n, _ := io.Copy(io.Discard, c) // how it ends is no matter
	fmt.Println(n)
}
