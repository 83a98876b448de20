// Command service is the least that signet.service can start: it does with the
// service manager what the agent does, and nothing else. Each connection is
// answered with the name of the socket that it came in by. SIGUSR1 makes it
// look hung. With a word and a unit as its arguments it does with that what the
// word says, and ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/signet-agent/signet/sinks/consumers"
	"github.com/signet-agent/signet/systemd"
)

func main() {
	var err error
	if len(os.Args) == 3 {
		err = act(os.Args[1], os.Args[2])
	} else {
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if e, ok := errors.AsType[*systemd.UnitError](err); ok {
			fmt.Fprintln(os.Stderr, e.Hint())
		}
		os.Exit(1)
	}
}

func act(word, unit string) error {
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	switch word {
	case "reload":
		return systemd.ReloadUnit(ctx, unit)
	case "may":
		return systemd.MayReload(ctx, unit)
	case "consumer":
		return consumers.Unit{Name: unit}.Reload(ctx)
	}
	return fmt.Errorf("%s: no such word", word)
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := systemd.NewLogger(systemd.LogOptions{})
	n := systemd.NewNotifier(log)
	listeners, _, err := systemd.Listeners()
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
