package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-agent/signet/client"
)

// greet prints the commands to try.
func (h *host) greet() {
	bin := h.bin
	if rel, err := workRelative(h.bin); err == nil {
		bin = rel
	}
	dir := h.dir
	if rel, err := workRelative(h.dir); err == nil {
		dir = rel
	}
	h.out.line("the agent is enrolled, has an access token and serves the credential")
	h.out.plain("ready: a throwaway host is under " + dir + "; try in another terminal:\n" +
		"  curl --unix-socket " + dir + "/signet.sock http://signet/v1/secrets/db\n" +
		"  " + bin + "/signet --socket " + dir + "/signet.sock get db --field password\n" +
		"  " + bin + "/signet --socket " + dir + "/signet.sock status\n" +
		"  " + bin + "/signet --socket " + dir + "/signet.sock rotate host\n" +
		"  cat " + dir + "/files/db.env; rm " + dir + "/files/db.env; cat " + dir + "/files/db.env\n" +
		"  PIN=$(cat " + dir + "/pin) SOFTHSM2_CONF=" + dir + "/softhsm2.conf pkcs11-tool --module " + h.module + " --login --pin env:PIN -O\n" +
		"  " + bin + "/signet-sim fault --help        (rehearse an outage)\n" +
		"Ctrl-C ends it.")
}

// plain writes text as it is.
func (l *lines) plain(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write([]byte(text + "\n"))
}

// workRelative is a path as somebody in the working directory would write it.
func workRelative(path string) (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return filepath.Rel(wd, path)
}

// follow prints a plain line per event.
func (h *host) follow(ctx context.Context) error {
	for e, err := range h.client.Events(ctx) {
		if err != nil {
			return err
		}
		h.show(e)
	}
	return nil
}

func (h *host) show(e client.Event) {
	var a struct {
		Version    string    `json:"version"`
		Generation int       `json:"generation"`
		Was        int       `json:"was"`
		Until      time.Time `json:"until"`
		Error      string    `json:"error"`
		Code       string    `json:"code"`
	}
	_ = json.Unmarshal(e.Data, &a) // an event without data says less
	until := a.Until.Local().Format("15:04:05")
	switch e.Type {
	case "token.issued":
		h.out.line("access token issued by %s, good until %s", e.Name, until)
	case "secret.changed":
		h.out.line("secret %s rotated to version %s", e.Name, a.Version)
	case "secret.withdrawn":
		h.out.line("secret %s withdrawn: %s", e.Name, a.Code)
	case "certificate.issued":
		h.out.line("certificate of %s#%d issued, good until %s", e.Name, a.Generation, until)
	case "certificate.renewed":
		h.out.line("certificate of %s#%d renewed, good until %s", e.Name, a.Generation, until)
	case "key.rotated":
		h.out.line("key rotated %s#%d -> %s#%d", e.Name, a.Was, e.Name, a.Generation)
	case "file.repaired":
		h.out.line("file %s repaired: %s", e.Name, a.Error)
	case "renewal.failed", "fetch.failed":
		h.out.line("%s of %s: %s", e.Type, e.Name, a.Error)
	}
}

// read reads the credential ten times a second, as an app would, and counts. It
// says when reads begin to fail, and when they work again.
func (h *host) read(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		_, err := h.client.ReadSecret(ctx, "db")
		if ctx.Err() != nil {
			return nil
		}
		if h.reads.Add(1); err != nil {
			h.failed.Add(1)
		}
		switch {
		case err != nil && !failing:
			h.out.line("reads of the credential fail: %v", err)
		case err == nil && failing:
			h.out.line("reads of the credential work again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// replaceKey rotates the client key once.
func (h *host) replaceKey(ctx context.Context) error {
	if h.newKey == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(h.newKey):
	}
	if err := h.client.Rotate(ctx, "host", false); err != nil && ctx.Err() == nil {
		h.out.line("the key was not rotated: %v", err)
	}
	return nil
}
