package main

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/signet-agent/signet/agent"
	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/systemd"
)

// A setup is a configuration to run with. Its text is kept, packed, for as long
// as the agent runs with it: there must be something to go back to.
type setup struct {
	file string
	cfg  *config.Config // nil once an agent has it; it can be large
	text []byte         // as flate packs it
}

// loadSetup reads and checks a configuration.
func loadSetup(file string) (*setup, error) {
	text, err := readConfig(file)
	if err != nil {
		return nil, err
	}
	c := &setup{file: file}
	if c.cfg, _, err = agent.CheckConfig(file, text); err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(text); err == nil {
		err = w.Close()
	}
	c.text = bytes.Clone(packed.Bytes())
	return c, err
}

// take is the configuration, which only the agent has then.
func (c *setup) take() (cfg *config.Config, err error) {
	if cfg, c.cfg = c.cfg, nil; cfg != nil {
		return cfg, nil
	}
	text, err := io.ReadAll(flate.NewReader(bytes.NewReader(c.text)))
	if err == nil {
		cfg, _, err = agent.CheckConfig(c.file, text)
	}
	return cfg, err
}

// A daemon is `signet run`: one agent after the other, each with the configuration
// of its time.
type daemon struct {
	log   *slog.Logger
	opt   agent.Options
	given map[string]net.Listener // by systemd
	hup   chan os.Signal

	mu    sync.Mutex
	comes bool         // guarded by mu: another agent does, after the one that is asked to stop
	wait  []agent.Held // guarded by mu: units that are left to it
}

// keepRunning runs the agent until ctx is done or it fails. At each SIGHUP it loads
// the configuration again: one that is in order replaces the running agent by
// stopping it and starting anew; there is no other way to change it. One that
// turns out not to start is replaced by the one before it.
func keepRunning(ctx context.Context, p *program, now *setup) error {
	var level slog.Level
	if l := now.cfg.Log.Level; l != "" {
		if err := level.UnmarshalText([]byte(l)); err != nil {
			return err
		}
	}
	d := &daemon{hup: make(chan os.Signal, 1)}
	d.log = slog.New(systemd.NewLogHandler(p.stderr, systemd.LogOptions{Level: level, Format: now.cfg.Log.Format}))
	d.opt = agent.Options{Log: d.log, Version: versionText(), Notifier: systemd.NewNotifier(d.log), Settled: saveMemory, HandOver: d.handOver}
	given, held, err := systemd.Listeners()
	if err != nil {
		return err
	}
	d.given = given
	for name, c := range held {
		d.wait = append(d.wait, agent.Held{Conn: c, Release: func() { d.opt.Notifier.Release(name) }})
	}
	// Said first of all: what is said later must not look alive.
	defer context.AfterFunc(ctx, d.opt.Notifier.Stopping)()
	signal.Notify(d.hup, syscall.SIGHUP)
	defer signal.Stop(d.hup)

	var before *setup // while it is not known whether now starts
	for first := true; ; first = false {
		next, err := d.runUntilReload(ctx, now)
		_, unstarted := errors.AsType[*agent.StartError](err)
		unstarted = unstarted && ctx.Err() == nil
		switch {
		case unstarted && before != nil:
			d.log.Error("the agent does not start with the new configuration; back to the one before", "err", err)
			now, before = before, nil
		case unstarted && first:
			return err // systemd goes on holding what it has held so far
		case err != nil || next == nil:
			d.refuseWaiting()
			return err
		default:
			now, before = next, now
		}
	}
}

// runUntilReload runs an agent, and returns the configuration to replace its own
// with, or nil if there is none.
func (d *daemon) runUntilReload(ctx context.Context, now *setup) (next *setup, err error) {
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	done, err := d.start(rctx, now)
	if err != nil {
		return nil, err
	}
	for next == nil {
		select {
		case err := <-done:
			return nil, err
		case <-d.hup:
			d.opt.Notifier.Reloading()
			if next, err = loadSetup(now.file); err != nil {
				next = nil
				d.log.Error("configuration not reloaded; the one before stays", "err", err)
				d.opt.Notifier.Ready()
			}
		}
	}
	d.mu.Lock()
	d.comes = true
	d.mu.Unlock()
	stop()
	if err := <-done; err != nil || ctx.Err() != nil {
		return nil, err
	}
	return next, nil
}

// start starts an agent, which is given the units that wait. What it ends with is
// sent; if it did not start they wait for another.
func (d *daemon) start(ctx context.Context, now *setup) (done chan error, err error) {
	cfg, err := now.take()
	if err != nil {
		return nil, err
	}
	opt := d.opt
	if opt.Listener, err = again(d.given[systemd.SocketName]); err != nil {
		return nil, err
	}
	if opt.Credentials, err = again(d.given[systemd.CredentialsSocketName]); err != nil {
		return nil, err
	}
	opt.Refreshes = refreshes(ctx, cfg, d.log)
	d.mu.Lock()
	opt.Held, d.wait, d.comes = d.wait, nil, false
	d.mu.Unlock()
	done = make(chan error, 1)
	go func(cfg *config.Config) { // which nobody else keeps
		err := agent.Run(ctx, cfg, opt)
		if _, unstarted := errors.AsType[*agent.StartError](err); unstarted {
			d.mu.Lock()
			d.wait = append(d.wait, opt.Held...)
			d.mu.Unlock()
			closeAll(opt.Listener, opt.Credentials)
		}
		done <- err
	}(cfg)
	return done, nil
}

// handOver is for agent.Options.
func (d *daemon) handOver(h agent.Held) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.comes {
		d.wait = append(d.wait, h)
	}
	return d.comes
}

// refuseWaiting refuses the units that no agent was there for in the end.
func (d *daemon) refuseWaiting() {
	d.mu.Lock()
	defer d.mu.Unlock()
	agent.RefuseUnits(d.wait)
}

// again is a listener that systemd made, once more: the agent closes its own
// when it stops, and a reload needs another.
func again(ln net.Listener) (net.Listener, error) {
	u, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, nil
	}
	f, err := u.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

func closeAll(listeners ...net.Listener) {
	for _, ln := range listeners {
		if ln != nil {
			_ = ln.Close() // it is a copy
		}
	}
}
