package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream/manager/managertest"
	"github.com/signet-agent/signet/upstream/senhasegura/senhaseguratest"
	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// The names of what `serve` keeps in its directory.
const (
	controlName   = "control.sock"
	endpointsName = "endpoints.json"
	oneTimeName   = "one-time.json"
	accountName   = "signet"
)

// endpoints is what somebody needs to know who sets an agent up.
type endpoints struct {
	Manager struct {
		URL               string `json:"url"`
		CAFile            string `json:"ca_file"`
		AccountID         int64  `json:"account_id"`
		RegisterMethod    string `json:"register_method"`
		CredentialsFile   string `json:"credentials_file"`
		AdminUsername     string `json:"admin_username"`
		AdminPasswordFile string `json:"admin_password_file"`
	} `json:"manager"`
	Senhasegura struct {
		URL              string `json:"url"`
		CAFile           string `json:"ca_file"`
		ClientID         string `json:"client_id"`
		ClientSecretFile string `json:"client_secret_file"`
		Credential       string `json:"credential"`
		Info             string `json:"info"`
	} `json:"senhasegura"`
	CipherTrust struct {
		URL               string `json:"url"`
		CAFile            string `json:"ca_file"`
		CA                string `json:"ca"` // id of the local CA that was there at first
		AdminUsername     string `json:"admin_username"`
		AdminPasswordFile string `json:"admin_password_file"`
		Username          string `json:"username"`
		PasswordFile      string `json:"password_file"`
		Secret            string `json:"secret"`
	} `json:"ciphertrust"`
	Control string `json:"control"`
}

// setup makes all simulators from what is in the directory, and the files that
// an agent is set up with.
func (s settings) setup() (*bench, error) {
	e := &bench{}
	last := endpoints{}
	if _, err := upstreamtest.Load(filepath.Join(s.dir, endpointsName), &last); err != nil {
		return nil, err
	}
	if err := s.setupManager(e, &last); err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	if err := s.setupSenhasegura(e, &last); err != nil {
		return nil, fmt.Errorf("senhasegura: %w", err)
	}
	if err := s.setupCipherTrust(e, &last); err != nil {
		return nil, fmt.Errorf("ciphertrust: %w", err)
	}
	e.files.Control = filepath.Join(s.dir, controlName)
	return e, upstreamtest.Save(filepath.Join(s.dir, endpointsName), e.files)
}

func (s settings) setupManager(e *bench, last *endpoints) error {
	ca, err := managertest.LoadCA(s.dir)
	if err != nil {
		return err
	}
	m := &e.files.Manager
	m.CAFile = filepath.Join(s.dir, "manager-ca.pem")
	m.RegisterMethod = "clientRegistration"
	m.CredentialsFile = filepath.Join(s.dir, oneTimeName)
	m.AdminUsername = "admin"
	m.AdminPasswordFile = filepath.Join(s.dir, "manager-admin-password")
	password, err := keepSecret(m.AdminPasswordFile, randomHex(12))
	if err != nil {
		return err
	}
	e.manager, err = managertest.New(managertest.Config{
		CA: ca, StateFile: filepath.Join(s.dir, "manager.json"),
		RegisterMethod: m.RegisterMethod, AdminUsername: m.AdminUsername, AdminPassword: password,
	})
	if err != nil {
		return err
	}
	if m.AccountID, err = account(e.manager, m.CredentialsFile); err != nil {
		return fmt.Errorf("private account: %w", err)
	}
	if e.managerListener, err = listen(s.manager, last.Manager.URL); err != nil {
		return err
	}
	m.URL = "https://" + e.managerListener.Addr().String()
	return nil
}

// oneTime is the file of one-time credentials, as `signet enroll` reads it.
type oneTime struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// account returns the demonstration's private account. If there is none, or one
// that nobody can register any more because its credentials are gone, it makes
// one. The credentials are on disk before the account exists, so that a kill in
// between loses nothing.
func account(m *managertest.Server, file string) (int64, error) {
	var last *managertest.Account
	for _, a := range m.Accounts() {
		if a.Name == accountName {
			last = &a
		}
	}
	if last != nil && last.State != "awaitingRegistration" {
		return last.ID, nil
	}
	var login oneTime
	found, err := upstreamtest.Load(file, &login)
	if err != nil {
		return 0, err
	}
	if found && last != nil && login.Username == last.Username {
		return last.ID, nil
	}
	return newAccount(file, func(login oneTime) (int64, error) {
		return m.CreatePrivateAccount(accountName, login.Username, login.Password)
	})
}

// newAccount writes new one-time credentials and has create make the account.
func newAccount(file string, create func(oneTime) (int64, error)) (int64, error) {
	login := oneTime{Username: "once-" + randomHex(4), Password: randomHex(16)}
	if err := upstreamtest.Save(file, login); err != nil {
		return 0, err
	}
	id, err := create(login)
	if err != nil {
		return 0, errors.Join(err, os.Remove(file))
	}
	return id, nil
}

func (s settings) setupSenhasegura(e *bench, last *endpoints) error {
	ca, err := upstreamtest.LoadCA(s.dir, "ca", upstreamtest.CAConfig{})
	if err != nil {
		return err
	}
	e.ca = ca
	cfg := senhaseguratest.Config{
		Vault: senhaseguratest.Examples(randomHex(20), randomHex(16)),
		State: filepath.Join(s.dir, "senhasegura.json"),
	}
	if !s.anyCaller {
		cfg.ClientCAs = e.manager.CA.Pool()
	}
	if e.senhasegura, err = senhaseguratest.New(cfg); err != nil {
		return err
	}
	v := &e.files.Senhasegura
	v.CAFile = filepath.Join(s.dir, "ca.pem")
	v.Credential, v.Info = "robot-test-5", "INFOID5"
	v.ClientSecretFile = filepath.Join(s.dir, "senhasegura-client-secret")
	id, secret := e.senhasegura.AccessKey()
	v.ClientID = id
	if err := writeSecret(v.ClientSecretFile, secret); err != nil {
		return err
	}
	if err := s.tune(e.senhasegura, v.Credential, id); err != nil {
		return err
	}
	if e.senhaseguraListener, err = listen(s.senhasegura, last.Senhasegura.URL); err != nil {
		return err
	}
	v.URL = "https://" + e.senhaseguraListener.Addr().String()
	return nil
}

// tune applies the flags about time, unless the simulator remembers the same:
// setting an interval again would start it anew.
func (s settings) tune(sim *senhaseguratest.Server, credential, clientID string) error {
	c, err := sim.Credential(credential)
	if err != nil {
		return err
	}
	if s.rotate != 0 && time.Duration(c.RotateEvery) != s.rotate {
		every := upstreamtest.Duration(s.rotate)
		if err := sim.ChangeCredential(credential, senhaseguratest.CredentialChange{RotateEvery: &every}); err != nil {
			return usageError{err}
		}
	}
	if s.tokenLife == 0 {
		return nil
	}
	life := upstreamtest.Duration(s.tokenLife)
	return sim.ChangeAuthorization(clientID, senhaseguratest.AuthorizationChange{TokenLife: &life})
}

// keepSecret returns the secret in the file; without one it puts fresh there.
func keepSecret(file, fresh string) (string, error) {
	b, err := os.ReadFile(file)
	if err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return fresh, writeSecret(file, fresh)
}

// writeSecret puts a secret into a file of its own, whole or not at all.
func writeSecret(file, secret string) error {
	temp := file + ".new" // nobody else writes here: the directory is locked
	if err := os.WriteFile(temp, []byte(secret), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, file)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
