// Command service is the least that signet.service can start: it does with the
// service manager what the agent does, and nothing else. Each connection is
// answered with the name of the socket that it came in by. SIGUSR1 makes it
// look hung. With a unit as its argument it reloads that and ends.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/signet-agent/signet/systemd"
)

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == "reload" {
		err = systemd.ReloadUnit(context.Background(), os.Args[2])
	} else {
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := systemd.NewLogger(systemd.LogOptions{})
	n := systemd.NewNotifier(log)
	listeners, err := systemd.Listeners()
	if err != nil {
		return err
	}
	if listeners[systemd.SocketName] == nil {
		os.Remove("/run/signet/signet.sock") // of a process that was killed
		if listeners[systemd.SocketName], err = net.Listen("unix", "/run/signet/signet.sock"); err != nil {
			return err
		}
	}
	for name, l := range listeners {
		go answer(l, name)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	var hung atomic.Bool
	go func() {
		for sig := range signals {
			if sig == syscall.SIGUSR1 {
				hung.Store(true)
				continue
			}
			n.Reloading()
			n.Status("reloaded")
			n.Ready()
		}
	}()
	n.Status("listening")
	n.Ready()
	log.LogAttrs(ctx, slog.LevelWarn, "started", slog.Int("sockets", len(listeners)))
	err = n.Watchdog(ctx, func() bool { return !hung.Load() })
	n.Stopping()
	return err
}

func answer(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, name)
		c.Close()
	}
}
