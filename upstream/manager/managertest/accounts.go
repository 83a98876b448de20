package managertest

import (
	"errors"
	"strings"
)

// CreatePrivateAccount is createPrivateAccount done by the administrator.
func (s *Server) CreatePrivateAccount(name, username, password string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, no := s.newAccount(name, username, password, password)
	if no != nil {
		return 0, errors.New(no.message)
	}
	a.Private, a.Roles = true, []role{vaultProvisioner}
	return a.ID, s.save()
}

// SetDisabled is editAccount with disabled, done by the administrator.
func (s *Server) SetDisabled(id int64, disabled bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(id)
	if a == nil {
		return errors.New("no such account")
	}
	a.Disabled = disabled
	return s.save()
}

// An Account is what a test or an operator may look at.
type Account struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	State    string `json:"state"`
	Username string `json:"username,omitempty"`
	// Certificates are oldest first.
	Certificates []Certificate `json:"certificates"`
}

// A Certificate is one of an Account.
type Certificate struct {
	Serial string `json:"serial"`
	// State is valid, superseded, revoked or expired.
	State string `json:"state"`
	DER   []byte `json:"der"`
}

// Accounts returns all accounts.
func (s *Server) Accounts() []Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	list := []Account{}
	for _, a := range s.state.Accounts {
		out := Account{ID: a.ID, Name: a.Name, State: a.stateAt(now), Username: a.Username, Certificates: []Certificate{}}
		for _, c := range a.Certificates {
			out.Certificates = append(out.Certificates, Certificate{c.Serial, c.stateAt(now), c.DER})
		}
		list = append(list, out)
	}
	return list
}

// newAccount checks and adds an account without roles. s.mu is held.
func (s *Server) newAccount(name, username, password, again string) (*account, *refusal) {
	if no := passwordRules(password, again); no != nil {
		return nil, no
	}
	taken := username == s.cfg.AdminUsername
	for _, a := range s.state.Accounts {
		taken = taken || a.Username == username
	}
	if taken {
		return nil, &refusal{422, "username", "The given username is taken", "duplicate"}
	}
	s.state.LastAccount++
	a := &account{ID: s.state.LastAccount, Name: name, Username: username}
	a.setPassword(password)
	s.state.Accounts = append(s.state.Accounts, a)
	return a, nil
}

func passwordRules(password, again string) *refusal {
	switch {
	case password != again:
		return invalid("confirmPassword", "The passwords do not match")
	case len(password) < 8:
		return invalid("password", "The given password is too weak: 8 characters are needed")
	}
	return nil
}

// asked makes an account from the parameters that all kinds share.
func (s *Server) asked(c *call) (*account, *refusal) {
	values := map[string]string{}
	for _, field := range []string{"name", "username", "password", "confirmPassword"} {
		v, no := c.text(field)
		if no != nil {
			return nil, no
		}
		values[field] = v
	}
	a, no := s.newAccount(values["name"], values["username"], values["password"], values["confirmPassword"])
	if no == nil {
		a.Email = c.form.Get("email")
		c.changed = true
	}
	return a, no
}

func (s *Server) createPrivateAccount(c *call) (any, *refusal) {
	a, no := s.asked(c)
	if no != nil {
		return nil, no
	}
	a.Private, a.Roles = true, []role{vaultProvisioner}
	return idData{a.ID}, nil
}

func (s *Server) createAccount(c *call) (any, *refusal) {
	if t := c.form.Get("accountType"); t != "" && t != "local" {
		return nil, invalid("accountType", "The simulator has local accounts only")
	}
	var roles []role
	for field := range c.form {
		name, ok := strings.CutPrefix(field, "rolesMap[")
		if !ok {
			continue
		}
		switch r := role(strings.TrimSuffix(name, "]")); r {
		case superUser, systemAdmin, securityAdmin, operator, vaultProvisioner, serviceAccount:
			if c.form.Get(field) == "true" {
				roles = append(roles, r)
			}
		default:
			return nil, invalid(field, "The given role is invalid")
		}
	}
	a, no := s.asked(c)
	if no != nil {
		return nil, no
	}
	a.Roles = roles
	return idData{a.ID}, nil
}

// named returns the account that the call is about. s.mu is held.
func (s *Server) named(c *call) (*account, *refusal) {
	id, no := c.id("id")
	if no != nil {
		return nil, no
	}
	a := s.find(id)
	if a == nil {
		return nil, &refusal{422, "id", "The given account id is invalid", "notfound"}
	}
	return a, nil
}

func (s *Server) editAccount(c *call) (any, *refusal) {
	a, no := s.named(c)
	if no != nil {
		return nil, no
	}
	disabled := a.Disabled
	switch v := c.form.Get("disabled"); {
	case !c.form.Has("disabled"):
	case v == "true", v == "false":
		disabled = v == "true"
	default:
		return nil, invalid("disabled", "Want true or false")
	}
	if c.form.Has("name") {
		name, no := c.text("name")
		if no != nil {
			return nil, no
		}
		a.Name = name
	}
	a.Disabled, c.changed = disabled, true
	return nil, nil
}

func (s *Server) changeAccountPassword(c *call) (any, *refusal) {
	a, no := s.named(c)
	if no != nil {
		return nil, no
	}
	if a.Private && a.current() != nil {
		return nil, &refusal{422, "id", "The account is registered with a certificate", "locked"}
	}
	password, no := c.text("password")
	if no != nil {
		return nil, no
	}
	again, no := c.text("confirmPassword")
	if no != nil {
		return nil, no
	}
	if no := passwordRules(password, again); no != nil {
		return nil, no
	}
	a.setPassword(password)
	c.changed = true
	return nil, nil
}

// importAccountAccessKey refuses every private account: it never has other
// credentials than the one-time ones, then its certificate.
func (s *Server) importAccountAccessKey(c *call) (any, *refusal) {
	a, no := s.named(c)
	if no != nil {
		return nil, no
	}
	if a.Private {
		return nil, &refusal{422, "id", "A private account cannot have access keys", "locked"}
	}
	for _, field := range []string{"accessKeyId", "secretAccessKey"} {
		if _, no := c.text(field); no != nil {
			return nil, no
		}
	}
	return nil, nil // object access is not simulated
}

type idData struct {
	ID int64 `json:"id"`
}

type accountData struct {
	ID                    int64    `json:"id"`
	Name                  string   `json:"name"`
	AccessKeys            []string `json:"accessKeys"`
	Type                  string   `json:"type"`
	State                 string   `json:"state"`
	Username              *string  `json:"username"`
	SubjectDN             *string  `json:"subjectDn"`
	CertificateSerial     *string  `json:"certificateSerial"`
	CertificateExpiration *int64   `json:"certificateExpiration"`
	Disabled              bool     `json:"disabled"`
}

// listAccounts shows a private account itself alone.
func (s *Server) listAccounts(c *call) (any, *refusal) {
	list := []accountData{}
	for _, a := range s.state.Accounts {
		if c.account != nil && c.account.Private && a != c.account {
			continue
		}
		d := accountData{ID: a.ID, Name: a.Name, AccessKeys: []string{}, Type: "local", State: a.stateAt(c.now), Disabled: a.Disabled}
		if a.Private {
			d.Type = "private"
		}
		if a.Username != "" {
			d.Username = &a.Username
		}
		if cur := a.current(); cur != nil {
			ms := cur.NotAfter.UnixMilli()
			d.SubjectDN, d.CertificateSerial, d.CertificateExpiration = &a.SubjectDN, &cur.Serial, &ms
		}
		list = append(list, d)
	}
	return map[string]any{"accounts": list}, nil
}
