package senhaseguratest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route finds the function that a path names.
func (s *Server) route(call *Call, auth *Authorization, r *http.Request) answer {
	// The escaped path, so that an identifier may have a slash in it.
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/iso/"), "/")
	for i, p := range parts {
		var err error
		if parts[i], err = url.PathUnescape(p); err != nil || parts[i] == "" {
			return notThere()
		}
	}
	is := func(method string, pattern ...string) bool {
		if r.Method != method || len(parts) != len(pattern) {
			return false
		}
		for i, p := range pattern {
			if p != "*" && p != parts[i] {
				return false
			}
		}
		return true
	}
	need := PAM
	if parts[0] == "dapp" {
		need = DSM
	}
	call.Resource = string(need)
	if !slices.Contains(auth.Resources, need) {
		return failure(http.StatusForbidden, 0, "Resource not authorized")
	}
	switch {
	case is("GET", "pam", "credential", "*"):
		call.Event = "Query credential"
		return s.readCredential(auth, parts[2])
	case is("DELETE", "pam", "credential", "custody", "*"):
		call.Event = "Release custody"
		return s.releaseCustody(auth, parts[3])
	case is("GET", "pam", "info", "*"):
		call.Event = "Query information"
		return s.readInfo(auth, parts[2])
	case is("GET", "dapp", "application"):
		call.Event = "Query application"
		return s.readApplication(auth)
	}
	return notThere()
}

// notThere is the product's own 404, of a path below /iso that is none.
func notThere() answer { return failure(http.StatusNotFound, 0, "Resource/sub-resource not found") }

// A credentialBody is a credential as it is answered. The password comes twice.
type credentialBody struct {
	ID         string  `json:"id"`
	Tag        string  `json:"tag"`
	Username   string  `json:"username"`
	Password   string  `json:"password"`
	Content    string  `json:"content"`
	Hostname   string  `json:"hostname"`
	ParentCod  *string `json:"parent_credential_cod"`
	Parent     *string `json:"parent_credential"`
	Additional string  `json:"additional"`
	Domain     string  `json:"domain"`
	IP         string  `json:"ip"`
	Port       string  `json:"port"`
	Model      string  `json:"model"`
	Expires    *string `json:"expiration_time"`
}

// find returns the credential that ref names if auth may see it.
func (s *Server) find(auth *Authorization, ref string) *Credential {
	for _, c := range s.vault.Credentials {
		if c.named(ref) && (auth.Credentials == nil || slices.Contains(auth.Credentials, c.ID)) {
			return c
		}
	}
	return nil
}

// readCredential answers a credential and leaves it in the caller's custody.
func (s *Server) readCredential(auth *Authorization, ref string) answer {
	c := s.find(auth, ref)
	if c == nil || c.Inactive {
		return refusal(1007, "Credential not found")
	}
	if c.Exclusive && c.Custody != "" && c.Custody != auth.ClientID {
		return refusal(1009, "No access to credential")
	}
	if c.Custody != auth.ClientID {
		c.Custody = auth.ClientID
		if err := s.save(); err != nil {
			return failure(http.StatusInternalServerError, 0, "Unexpected error")
		}
	}
	body := credentialBody{
		ID: c.ID, Tag: c.Identifier, Username: c.Username, Password: c.Password, Content: c.Password,
		Hostname: c.Hostname, Additional: c.Additional, Domain: c.Domain, IP: c.IP, Port: c.Port, Model: c.Model,
	}
	if !c.Expires.IsZero() {
		at := c.Expires.UTC().Format("2006-01-02T15:04:05")
		body.Expires = &at
	}
	return success("Credential "+c.ID, "credential", body)
}

func (s *Server) releaseCustody(auth *Authorization, ref string) answer {
	c := s.find(auth, ref)
	switch {
	case c == nil || c.Inactive:
		return refusal(1007, "Credential not found")
	case c.Custody != auth.ClientID:
		return refusal(1018, "The credential is not in the user custody")
	}
	c.Custody = ""
	if err := s.save(); err != nil {
		return failure(http.StatusInternalServerError, 0, "Unexpected error")
	}
	return success("Credential custody "+c.ID+" released", "", nil)
}

func (s *Server) readInfo(auth *Authorization, ref string) answer {
	for _, i := range s.vault.Infos {
		if (i.ID != ref && i.Tag != ref) || (auth.Infos != nil && !slices.Contains(auth.Infos, i.ID)) {
			continue
		}
		if i.Inactive {
			return refusal(1024, "Inactive information")
		}
		return success("Information "+i.ID, "info", struct {
			ID      string `json:"id"`
			Tag     string `json:"tag"`
			Type    string `json:"type"`
			Content string `json:"content"`
		}{i.ID, i.Tag, i.Type, i.Content})
	}
	return refusal(1023, "Information not found")
}

// readApplication answers all secrets of the authorization's application.
func (s *Server) readApplication(auth *Authorization) answer {
	for _, a := range s.vault.Applications {
		if a.ClientID != auth.ClientID {
			continue
		}
		return success("Application "+a.ID, "application", struct {
			Name        string      `json:"name"`
			Description *string     `json:"description"`
			Tags        []string    `json:"tags"`
			System      string      `json:"system"`
			Environment string      `json:"environment"`
			Secrets     []AppSecret `json:"secrets"`
		}{a.Name, a.Description, a.Tags, a.System, a.Environment, a.Secrets})
	}
	return answer{http: http.StatusNotFound, message: "Resource sub not found", errorCode: 4}
}
