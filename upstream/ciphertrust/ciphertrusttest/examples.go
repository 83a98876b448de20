package ciphertrusttest

import (
	"fmt"
	"slices"
	"time"
)

// A Setup is what an appliance has at first, besides the user admin.
type Setup struct {
	// AdminID is the user_id of admin. If "", it is made up.
	AdminID       string
	Users         []User
	RefreshTokens []RefreshToken
	Secrets       []Secret
}

// A User is one of those.
type User struct {
	ID          string // user_id, such as local|9cd4196b-b4b3-42d7-837f-d4fdeff36538; made up if ""
	Username    string
	Password    string // "" is none; the policy is not asked
	Name, Email string
	Groups      []string
	SubjectDN   string
	// AuthMethods are password alone if nil.
	AuthMethods []string
}

// A RefreshToken is one of those.
type RefreshToken struct {
	Text     string
	Username string
	ClientID string // made up if ""
	Labels   []string
	Lifetime time.Duration // 0 is for ever
	UnusedIn time.Duration // 0 is for ever
}

// A Secret is one of those, of the user admin.
type Secret struct {
	Name     string
	DataType string // blob, password or seed
	Material string
	// Groups may read and export it.
	Groups []string
}

// Examples are the users, refresh tokens and secrets that the product's manual
// prints.
func Examples() Setup {
	return Setup{
		AdminID: "local|917b53fc-d209-4895-babe-76c711e429dc",
		Users: []User{{
			ID: "local|9cd4196b-b4b3-42d7-837f-d4fdeff36538", Username: "maya", Password: "Maya-2504", Name: "Maya",
			Email: "m@example.com", Groups: []string{"Key Users"},
		}},
		RefreshTokens: []RefreshToken{
			{Text: "ujeViKSNKXUbiL8fEjliukE8AgSzH8DxojwnYuDL4hoX4OqpZX1OEPPDgRPtkdQY", Username: "admin"},
			{Text: "e7UySu7fj8ZAwPKVIjEGwOTmt8AidxFHK8Wc4tL0RiaHVf7sd3oBQ74y2M8pPhNI", Username: "admin"},
			{Text: "cIb6w1PzazBnJM35v9QyP6LWN70lGnGfNVUMGQfzjrcY8Hfv9cJjuMIXFHqNIo9g", Username: "admin"},
			{
				Text: "icmtiodYvNfCAr5XXXODlgJjATkYPpYs3oHRXXXCdGWhGpSXXX70x3AQF1tkcpGO", Username: "admin",
				ClientID: "ffbbd794-68a3-4da9-83bc-9b0dd7a3ee48", Lifetime: 30 * 24 * time.Hour,
			},
		},
		Secrets: []Secret{{Name: "mypass", DataType: passwordType, Material: "123456", Groups: []string{"Key Users"}}},
	}
}

// AddUsers adds users to the root domain.
func (s *Server) AddUsers(users ...User) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.addUsers(users, s.Clock.Now().UTC()); err != nil {
		return err
	}
	return s.save()
}

// addUsers does it. The caller holds mu, or is New.
func (s *Server) addUsers(users []User, now time.Time) error {
	taken := map[string]bool{}
	for _, u := range s.state.Users {
		taken[u.Username] = true
	}
	for _, in := range users {
		if taken[in.Username] || in.Username == "" {
			return fmt.Errorf("user %q: there is one already", in.Username)
		}
		taken[in.Username] = true
		u := newUser(in.Username, rootDomain, now)
		if in.ID != "" {
			u.ID = in.ID
		}
		u.Name, u.Email, u.SubjectDN = in.Name, in.Email, in.SubjectDN
		if in.AuthMethods != nil {
			u.AuthMethods = slices.Clone(in.AuthMethods)
		}
		if in.Password != "" {
			u.setPassword(in.Password, now)
		}
		for _, g := range in.Groups {
			if s.state.Domains[0].group(g) == nil {
				return fmt.Errorf("user %q: no group %q", in.Username, g)
			}
		}
		u.setGroups(s.state.Domains[0], slices.Clone(in.Groups))
		s.state.Users = append(s.state.Users, u)
	}
	return nil
}

// addRefreshToken adds a refresh token. The caller is New.
func (s *Server) addRefreshToken(in RefreshToken, now time.Time) error {
	u := s.userByName(in.Username, rootDomain)
	if u == nil {
		return fmt.Errorf("refresh token of %q: no such user", in.Username)
	}
	t := &refreshToken{
		ID: uuid(), Digest: tokenDigest(in.Text), UserID: u.ID, ClientID: in.ClientID, Domain: rootDomain,
		Labels: append([]string{}, in.Labels...), CreatedAt: now, RefreshedAt: now, UnusedIn: int(in.UnusedIn / time.Minute),
	}
	if t.ClientID == "" {
		t.ClientID = uuid()
	}
	if in.Lifetime > 0 {
		t.ExpiresAt = now.Add(in.Lifetime)
	}
	s.state.Tokens = append(s.state.Tokens, t)
	return nil
}

// addSecret adds a secret of the user admin. The caller holds mu, or is New.
func (s *Server) addSecret(in Secret, now time.Time) error {
	root := s.state.Domains[0]
	if named(root.Secrets, in.Name) {
		return fmt.Errorf("secret %q: there is one already", in.Name)
	}
	x := newSecret(in.Name, in.DataType, 0, now)
	x.Record.Meta = meta{OwnerID: s.userByName("admin", rootDomain).ID}
	if len(in.Groups) > 0 {
		x.Record.Meta.Permissions = map[string][]string{"ReadKey": in.Groups, "ExportKey": in.Groups}
	}
	if no := x.setMaterial(&in.Material); no != nil {
		return fmt.Errorf("secret %q: %s", in.Name, no.desc)
	}
	root.Secrets = append(root.Secrets, x)
	return nil
}
