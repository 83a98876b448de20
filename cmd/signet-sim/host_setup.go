package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// prepare makes the directory anew, and a token in it.
func (h *host) prepare(ctx context.Context) error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(h.path(e.Name())); err != nil {
			return err
		}
	}
	for _, d := range []string{"files", "state", "sim", "log"} {
		if err := os.Mkdir(h.path(d), 0o700); err != nil {
			return err
		}
	}
	if err := h.makeTokenDir(); err != nil {
		return err
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", h.path("token"))
	if err := os.WriteFile(h.path("softhsm2.conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"pin", "so-pin"} {
		if err := os.WriteFile(h.path(name), []byte(rand.Text()[:12]), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "signet-hsm"), "init-token", "--module", h.module,
		"--label", "signet", "--pin-file", h.path("pin"), "--so-pin-file", h.path("so-pin"))
	cmd.Env = h.environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a token: %s (%w)", strings.TrimSpace(string(out)), err)
	}
	return nil
}

// makeTokenDir puts the token on a tmpfs where there is one: SoftHSM rewrites a
// file for each attribute of a key, which takes a disk half a second a key.
func (h *host) makeTokenDir() error {
	const shm, tmpfs = "/dev/shm", 0x01021994
	var fs unix.Statfs_t
	if unix.Statfs(shm, &fs) != nil || fs.Type != tmpfs || unix.Access(shm, unix.W_OK) != nil {
		return os.Mkdir(h.path("token"), 0o700)
	}
	sum := sha256.Sum256([]byte(h.dir))
	dir := filepath.Join(shm, fmt.Sprintf("signet-run-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6])))
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Symlink(dir, h.path("token"))
}

// environ is what children find in their environment.
func (h *host) environ() []string {
	return append(os.Environ(), "SOFTHSM2_CONF="+h.path("softhsm2.conf"), "SIGNET_SOCKET="+h.path("signet.sock"))
}

var hostConfig = template.Must(template.New("signet.yaml").Parse(`# Written by signet-sim host; a throwaway host.
state_dir: {{.Dir}}/state
runtime_dir: {{.Dir}}
hsm:
  module: {{.Module}}
  token: signet
  pin: {file: {{.Dir}}/pin}
upstreams:
  vaults:
    type: manager
    url: {{.E.Manager.URL}}
    ca_file: {{.E.Manager.CAFile}}
    account_id: {{.E.Manager.AccountID}}
  pam:
    type: senhasegura
    url: {{.E.Senhasegura.URL}}
    ca_file: {{.E.Senhasegura.CAFile}}
    identity: host
    auth: {grant: client_credentials, client_id: {{.E.Senhasegura.ClientID}}, client_secret: {file: {{.E.Senhasegura.ClientSecretFile}}}}
identities:
  host:
    key: {type: rsa-2048}
    issuer: vaults
    subject: {common_name: host1.example}
    duration: {{.Life}}
    grace: 30s
    credentials_file: {{.E.Manager.CredentialsFile}}
secrets:
  db:
    upstream: pam
    credential: {{.E.Senhasegura.Credential}}
    ttl: 1h
    max_stale: 24h
files:
  - path: {{.Dir}}/files/db.env
    secret: db
    format: env
    mode: "0600"
  - path: {{.Dir}}/files/db.password
    secret: db
    field: password
    mode: "0600"
socket: {path: {{.Dir}}/signet.sock, mode: "0660"}
policy:
  - callers: {users: [{{.User}}]}
    allow: {secrets: [db], certificates: [host], keys: {host: [sign]}, tokens: [pam], proxy: {pam: ["GET /iso/pam/credential/*"], vaults: ["POST /manager/api/json/1.0/*"]}, admin: true}
`))

// configure writes the agent's configuration from what the simulators said.
func (h *host) configure() error {
	var e endpoints
	if _, err := upstreamtest.Load(h.path("sim", endpointsName), &e); err != nil {
		return fmt.Errorf("endpoints of the simulators: %w", err)
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(h.path("signet.yaml"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = hostConfig.Execute(f, map[string]any{"Dir": h.dir, "Module": h.module, "E": e, "Life": h.life, "User": me.Username})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
