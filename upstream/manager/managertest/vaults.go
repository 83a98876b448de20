package managertest

import (
	"crypto/subtle"
	"slices"
)

// template is a vault or mirror template.
type template struct {
	ID               int64
	Name             string
	ProvisioningCode string
}

type vault struct {
	ID               int64
	Name             string
	Description      string
	Template         int64
	ProvisioningCode string
	Owner            int64 // account; 0 for an administrator's
	Locked           bool
	Mirror           int64  // 0 for none
	Position         string // in the mirror
	Used             bool   // holds objects
}

type mirror struct {
	ID          int64
	Name        string
	Description string
	Owner       int64
	Locked      bool
}

// SetUsed says whether a vault holds objects; used ones cannot be deleted.
func (s *Server) SetUsed(id int64, used bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.state.Vaults {
		if v.ID == id {
			v.Used = used
		}
	}
	return s.save()
}

func templateOf(list []template, id int64) bool {
	return slices.ContainsFunc(list, func(t template) bool { return t.ID == id })
}

// nameTaken looks at vaults and mirrors. s.mu is held.
func (s *Server) nameTaken(name string) bool {
	return slices.ContainsFunc(s.state.Vaults, func(v *vault) bool { return v.Name == name }) ||
		slices.ContainsFunc(s.state.Mirrors, func(m *mirror) bool { return m.Name == name })
}

// newName returns the name for a new vault or mirror. s.mu is held.
func (s *Server) newName(c *call) (string, *refusal) {
	name, no := c.text("name")
	if no != nil {
		return "", no
	}
	if s.nameTaken(name) {
		return "", &refusal{422, "name", "The given name is in use", "duplicate"}
	}
	if c.form.Has("organizationId") {
		if _, no := c.id("organizationId"); no != nil {
			return "", no
		}
	}
	return name, nil
}

// owner returns who owns what the call makes, and whether it is locked: what a
// private account makes is.
func (c *call) owner() (id int64, locked bool) {
	if c.account == nil {
		return 0, false
	}
	return c.account.ID, c.account.Private
}

// createVault is createVaultFromTemplate.
func (s *Server) createVault(c *call) (any, *refusal) {
	id, no := c.id("id")
	if no != nil {
		return nil, no
	}
	if !templateOf(s.state.VaultTemplates, id) {
		return nil, &refusal{422, "id", "The given vault template id is invalid", "notfound"}
	}
	name, no := s.newName(c)
	if no != nil {
		return nil, no
	}
	v := &vault{Name: name, Template: id, Description: c.form.Get("description"), ProvisioningCode: c.form.Get("provisioningCode")}
	if v.ProvisioningCode == "" {
		v.ProvisioningCode = name
	}
	v.Owner, v.Locked = c.owner()
	if no := s.join(c, v); no != nil {
		return nil, no
	}
	return s.addVault(c, v), nil
}

func (s *Server) addVault(c *call, v *vault) idData {
	s.state.LastVault++
	v.ID = s.state.LastVault
	s.state.Vaults = append(s.state.Vaults, v)
	c.changed = true
	return idData{v.ID}
}

// join puts a new vault into the mirror that the call names, if any. s.mu is held.
func (s *Server) join(c *call, v *vault) *refusal {
	position := c.form.Get("mirrorPositionCode")
	if !c.form.Has("mirrorId") {
		if position != "" {
			return invalid("mirrorPositionCode", "There is no mirror to have a position in")
		}
		return nil
	}
	id, no := c.id("mirrorId")
	if no != nil {
		return no
	}
	at := slices.IndexFunc(s.state.Mirrors, func(m *mirror) bool { return m.ID == id })
	if at < 0 {
		return invalid("mirrorId", "The given mirror id is invalid")
	}
	if s.state.Mirrors[at].Owner != v.Owner {
		return &refusal{403, "mirrorId", "The mirror is not the caller's", "forbidden"}
	}
	free := []string{"position1", "position2"}
	for _, have := range s.state.Vaults {
		if have.Mirror == id {
			free = slices.DeleteFunc(free, func(p string) bool { return p == have.Position })
		}
	}
	switch {
	case position != "" && position != "position1" && position != "position2":
		return invalid("mirrorPositionCode", "Want position1 or position2")
	case len(free) == 0 || position != "" && !slices.Contains(free, position):
		return &refusal{422, "mirrorPositionCode", "The position is taken", "duplicate"}
	case position == "":
		position = free[0]
	}
	v.Mirror, v.Position = id, position
	return nil
}

// createMirror is createMirrorFromTemplate.
func (s *Server) createMirror(c *call) (any, *refusal) {
	id, no := c.id("id")
	if no != nil {
		return nil, no
	}
	if !templateOf(s.state.MirrorTemplates, id) {
		return nil, &refusal{422, "id", "The given mirror template id is invalid", "notfound"}
	}
	name, no := s.newName(c)
	if no != nil {
		return nil, no
	}
	return s.addMirror(c, name), nil
}

func (s *Server) addMirror(c *call, name string) idData {
	s.state.LastVault++
	m := &mirror{ID: s.state.LastVault, Name: name, Description: c.form.Get("description")}
	m.Owner, m.Locked = c.owner()
	s.state.Mirrors = append(s.state.Mirrors, m)
	c.changed = true
	return idData{m.ID}
}

// createFromCode is createVaultOrMirrorFromProvisioningCode.
func (s *Server) createFromCode(c *call) (any, *refusal) {
	code, no := c.text("provisioningCode")
	if no != nil {
		return nil, no
	}
	name, no := s.newName(c)
	if no != nil {
		return nil, no
	}
	for _, t := range s.state.VaultTemplates {
		if t.ProvisioningCode == code {
			v := &vault{Name: name, Template: t.ID, Description: c.form.Get("description"), ProvisioningCode: name}
			v.Owner, v.Locked = c.owner()
			return s.addVault(c, v), nil
		}
	}
	for _, t := range s.state.MirrorTemplates {
		if t.ProvisioningCode == code {
			return s.addMirror(c, name), nil
		}
	}
	return nil, &refusal{422, "provisioningCode", "The given provisioning code is invalid", "notfound"}
}

// vault returns the vault that the call is about, if it is in the caller's
// domain. s.mu is held.
func (s *Server) vault(c *call) (*vault, *refusal) {
	id, no := c.id("id")
	if no != nil {
		return nil, no
	}
	at := slices.IndexFunc(s.state.Vaults, func(v *vault) bool { return v.ID == id })
	if at < 0 {
		return nil, &refusal{422, "id", "The given vault id is invalid", "notfound"}
	}
	v := s.state.Vaults[at]
	if c.account != nil && c.account.Private && v.Owner != c.account.ID {
		return nil, &refusal{403, "id", "The vault is not the caller's", "forbidden"}
	}
	return v, nil
}

func (s *Server) deleteVault(c *call) (any, *refusal) {
	v, no := s.vault(c)
	if no != nil {
		return nil, no
	}
	if action := c.form.Get("action"); c.form.Has("action") && action != "delete" && action != "deny" {
		return nil, invalid("action", "Want delete or deny")
	}
	if !c.form.Has("password") {
		return nil, &refusal{422, "password", "The password is required", "required"}
	}
	// A private account has none, so its password is the empty one.
	if subtle.ConstantTimeCompare([]byte(c.form.Get("password")), []byte(c.password)) != 1 {
		return nil, invalid("password", "The given password is invalid")
	}
	mirrored := slices.ContainsFunc(s.state.Mirrors, func(m *mirror) bool { return m.ID == v.Mirror && m.Locked })
	switch {
	case v.Used:
		return nil, &refusal{422, "id", "The vault is not empty", "notempty"}
	case mirrored:
		return nil, &refusal{422, "id", "The vault belongs to a locked mirror", "locked"}
	}
	s.state.Vaults = slices.DeleteFunc(s.state.Vaults, func(x *vault) bool { return x == v })
	c.changed = true
	return nil, nil
}

// editVaultAccessControl refuses locked vaults; for others access is not
// simulated.
func (s *Server) editVaultAccessControl(c *call) (any, *refusal) {
	v, no := s.vault(c)
	if no != nil {
		return nil, no
	}
	if v.Locked {
		return nil, &refusal{422, "id", "The access to a locked vault is fixed", "locked"}
	}
	return nil, nil
}

type poolData struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

type vaultData struct {
	ID             int64      `json:"id"`
	Name           string     `json:"name"`
	StoragePools   []poolData `json:"storagePools"`
	Locked         bool       `json:"locked"`
	OwnerAccountID *int64     `json:"ownerAccountId"`
	TemplateID     int64      `json:"templateId"`
	Empty          bool       `json:"empty"`
}

func pools() []poolData { return []poolData{{ID: 1, Name: "pool"}} }

// listVaults shows a private account its own vaults alone.
func (s *Server) listVaults(c *call) (any, *refusal) {
	list := []vaultData{}
	for _, v := range s.state.Vaults {
		if c.account != nil && c.account.Private && v.Owner != c.account.ID {
			continue
		}
		d := vaultData{ID: v.ID, Name: v.Name, StoragePools: pools(), Locked: v.Locked, TemplateID: v.Template, Empty: !v.Used}
		if v.Owner != 0 {
			d.OwnerAccountID = &v.Owner
		}
		list = append(list, d)
	}
	return map[string]any{"vaults": list}, nil
}

func (s *Server) listStoragePools(*call) (any, *refusal) {
	return map[string]any{"storagePools": pools()}, nil
}
