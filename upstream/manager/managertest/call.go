package managertest

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-agent/signet/upstream/upstreamtest"
)

// A method is one of the Manager's.
type method struct {
	// roles may call it: of them the caller needs one.
	roles []role
	// params are the names it knows; a trailing [] stands for any key.
	params []string
	list   bool // GET or POST, and changes nothing
	// oneTime allows the one-time credentials of a private account, and they
	// alone.
	oneTime bool
	handle  func(*call) (any, *refusal)
}

func (s *Server) table() map[string]method {
	admins, security := []role{superUser, systemAdmin}, []role{superUser, securityAdmin}
	anyone := []role{superUser, systemAdmin, securityAdmin, operator, vaultProvisioner}
	creators := []role{superUser, systemAdmin, vaultProvisioner}
	holder := []role{vaultProvisioner}
	names := func(n ...string) []string { return n }
	return map[string]method{
		s.cfg.RegisterMethod:       {holder, names("csr", "expirationDate"), false, true, s.register},
		"clientCertificateRenewer": {holder, names("accountId", "expirationDate"), false, false, s.renew},
		"rotateClientKey":          {holder, names("csr", "expirationDate"), false, false, s.rotate},

		"createPrivateAccount":   {security, names("name", "username", "password", "confirmPassword", "email"), false, false, s.createPrivateAccount},
		"createAccount":          {security, names("name", "username", "password", "confirmPassword", "email", "accountType", "rolesMap[]", "vaultUserPermissions[]"), false, false, s.createAccount},
		"editAccount":            {security, names("id", "name", "disabled"), false, false, s.editAccount},
		"changeAccountPassword":  {security, names("id", "password", "confirmPassword"), false, false, s.changeAccountPassword},
		"importAccountAccessKey": {security, names("id", "accessKeyId", "secretAccessKey"), false, false, s.importAccountAccessKey},

		"createVaultFromTemplate":                 {creators, names("id", "name", "description", "mirrorId", "mirrorPositionCode", "provisioningCode", "organizationId"), false, false, s.createVault},
		"createMirrorFromTemplate":                {creators, names("id", "name", "description", "organizationId"), false, false, s.createMirror},
		"createVaultOrMirrorFromProvisioningCode": {creators, names("provisioningCode", "name", "description", "organizationId"), false, false, s.createFromCode},
		"deleteVault":                             {creators, names("id", "password", "action"), false, false, s.deleteVault},
		"editVaultAccessControl":                  {admins, names("id", "allowedIps", "accessMap[]"), false, false, s.editVaultAccessControl},

		"listAccounts":     {anyone, nil, true, false, s.listAccounts},
		"listVaults":       {anyone, nil, true, false, s.listVaults},
		"listStoragePools": {anyone, nil, true, false, s.listStoragePools},
		"listEvents":       {anyone, names("accountId"), true, false, s.listEvents},
	}
}

// A call is one request whose caller is known and whose parameters are.
type call struct {
	now       time.Time
	form      url.Values
	account   *account // nil for the administrator of the Config
	byOneTime bool     // with one-time credentials instead of a certificate
	password  string   // of Basic; "" by certificate
	changed   bool     // the state has to be saved
}

// A refusal is a failed call.
type refusal struct {
	status  int
	field   string // "" for a global error
	message string
	code    string
}

func invalid(field, message string) *refusal { return &refusal{422, field, message, "invalid"} }

// errorEntry is a refusal on the wire.
type errorEntry struct {
	Field   *string `json:"field"`
	Message string  `json:"message"`
	Code    string  `json:"code"`
}

const base = "/manager/api/json/1.0/"

// ServeHTTP answers one call, without the faults: they are in front of it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, base)
	if !ok || strings.Contains(name, "/") {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &call{now: s.Clock.Now()}
	if !s.authenticate(c, r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="Manager"`)
		w.Header().Set("Content-Type", "text/html;charset=UTF-8")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte("<html><head><title>401 Unauthorized</title></head><body>Unauthorized</body></html>"))
		return
	}
	data, no := s.answer(c, strings.TrimSuffix(name, ".adm"), r)
	if c.changed && no == nil {
		if err := s.save(); err != nil {
			no = &refusal{500, "", "internal error", "internal"}
		}
	}
	s.reply(w, c, data, no)
}

// answer looks the method up and carries it out. s.mu is held.
func (s *Server) answer(c *call, name string, r *http.Request) (any, *refusal) {
	m, ok := s.methods[name]
	if !ok {
		return nil, &refusal{404, "", "There is no method of that name", "notfound"}
	}
	if c.byOneTime != m.oneTime {
		return nil, &refusal{403, "", "The account may not call this method", "forbidden"}
	}
	if !slices.ContainsFunc(m.roles, c.has) {
		return nil, &refusal{403, "", "The account's roles do not allow this method", "forbidden"}
	}
	if no := c.read(m, r); no != nil {
		return nil, no
	}
	return m.handle(c)
}

// read takes the parameters out of the request.
func (c *call) read(m method, r *http.Request) *refusal {
	switch {
	case r.Method == http.MethodGet && m.list:
		form, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return invalid("", "The query cannot be read")
		}
		c.form = form
	case r.Method == http.MethodPost:
		if r.URL.RawQuery != "" {
			return invalid("", "Parameters belong in the body")
		}
		if m.list && r.ContentLength == 0 {
			return nil
		}
		form, err := upstreamtest.Form(r)
		if err != nil {
			return invalid("", err.Error())
		}
		c.form = form
	default:
		return &refusal{405, "", "The method is not called that way", "invalid"}
	}
	for name, values := range c.form {
		known := slices.ContainsFunc(m.params, func(p string) bool {
			prefix, isMap := strings.CutSuffix(p, "[]")
			return p == name || isMap && strings.HasPrefix(name, prefix+"[") && strings.HasSuffix(name, "]")
		})
		if !known {
			return invalid(name, "The parameter is not known")
		}
		if len(values) > 1 {
			return invalid(name, "The parameter is given more than once")
		}
	}
	return nil
}

// text returns a parameter that has to be there and not empty.
func (c *call) text(field string) (string, *refusal) {
	if v := c.form.Get(field); v != "" {
		return v, nil
	}
	return "", &refusal{422, field, "The " + field + " is required", "required"}
}

// id returns a number that has to be there.
func (c *call) id(field string) (int64, *refusal) {
	v, no := c.text(field)
	if no != nil {
		return 0, no
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, invalid(field, "The given "+field+" is invalid")
	}
	return n, nil
}

// date returns a future instant, or the default if the parameter is absent and
// there is one.
func (c *call) date(field string, byDefault time.Time) (time.Time, *refusal) {
	if !c.form.Has(field) && !byDefault.IsZero() {
		return byDefault, nil
	}
	ms, no := c.id(field)
	if no != nil {
		return time.Time{}, no
	}
	at := time.UnixMilli(ms)
	if !at.After(c.now) {
		return time.Time{}, invalid(field, "The given expiration date is not in the future")
	}
	return at, nil
}

type header struct {
	Status    string `json:"status"`
	Now       int64  `json:"now"`
	RequestID string `json:"requestId"`
}

type envelope struct {
	ResponseStatus string `json:"responseStatus"`
	ResponseHeader header `json:"responseHeader"`
	ResponseData   any    `json:"responseData"`
}

// reply writes the envelope.
func (s *Server) reply(w http.ResponseWriter, c *call, data any, no *refusal) {
	status, word := http.StatusOK, "ok"
	if data == nil {
		data = struct{}{}
	}
	if no != nil {
		entry := errorEntry{Message: no.message, Code: no.code}
		if no.field != "" {
			entry.Field = &no.field
		}
		status, word = no.status, "fail"
		data = map[string][]errorEntry{"errors": {entry}}
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(envelope{word, header{word, c.now.UnixMilli(), rand.Text()[:24]}, data})
}
