package ciphertrusttest

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// A policy is what passwords have to be.
type policy struct {
	Name      string `json:"policy_name"`
	Lockout   []int  `json:"failed_logins_lockout_thresholds"` // minutes, by how many logins failed
	MinLength int    `json:"inclusive_min_total_length"`
	MaxLength int    `json:"inclusive_max_total_length"`
	MinDigits int    `json:"inclusive_min_digits"`
	MinLower  int    `json:"inclusive_min_lower_case"`
	MinUpper  int    `json:"inclusive_min_upper_case"`
	MinOther  int    `json:"inclusive_min_other"`
	MinDays   int    `json:"password_change_min_days"`
	History   int    `json:"password_history_threshold"`
	Lifetime  int    `json:"password_lifetime"` // days; 0 is for ever
}

// globalPolicy is that of a new appliance.
func globalPolicy() *policy {
	return &policy{
		Name: "global", Lockout: []int{0, 0, 0, 0, 30}, MinLength: 8, MaxLength: 30,
		MinDigits: 1, MinLower: 1, MinUpper: 1, MinOther: 1,
	}
}

// lockout is how long a user is locked out after so many failed logins.
func (p *policy) lockout(failed int) time.Duration {
	if failed == 0 || len(p.Lockout) == 0 {
		return 0
	}
	return time.Duration(p.Lockout[min(failed, len(p.Lockout))-1]) * time.Minute
}

// check refuses a new password that the policy does not allow.
func (p *policy) check(u *user, password string) *refusal {
	count := func(is func(rune) bool) (n int) {
		for _, r := range password {
			if is(r) {
				n++
			}
		}
		return n
	}
	other := func(r rune) bool { return !unicode.IsDigit(r) && !unicode.IsLower(r) && !unicode.IsUpper(r) }
	length := len([]rune(password))
	if length < p.MinLength || length > p.MaxLength || count(unicode.IsDigit) < p.MinDigits ||
		count(unicode.IsLower) < p.MinLower || count(unicode.IsUpper) < p.MinUpper || count(other) < p.MinOther {
		return invalid(fmt.Sprintf("password: the policy wants %d to %d characters, of them %d digits, %d lower case, %d upper case, %d other",
			p.MinLength, p.MaxLength, p.MinDigits, p.MinLower, p.MinUpper, p.MinOther))
	}
	if u.hasPassword(password) {
		return invalid("password: the new one is the old one")
	}
	for _, old := range u.History[:min(p.History, len(u.History))] {
		salt, sum, _ := strings.Cut(old, ":")
		if digest(salt, password) == sum {
			return invalid("password: it was used before")
		}
	}
	return nil
}

// policy finds a policy by name, or returns nil.
func (s *Server) policy(name string) *policy {
	for _, p := range s.state.Policies {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (s *Server) policyOf(u *user) *policy {
	if p := s.policy(u.Policy); p != nil {
		return p
	}
	return s.state.Policies[0]
}

// policyChange is the body that makes or changes a policy.
type policyChange struct {
	Name      *string `json:"policy_name"`
	Lockout   *[]int  `json:"failed_logins_lockout_thresholds"`
	MinLength *int    `json:"inclusive_min_total_length"`
	MaxLength *int    `json:"inclusive_max_total_length"`
	MinDigits *int    `json:"inclusive_min_digits"`
	MinLower  *int    `json:"inclusive_min_lower_case"`
	MinUpper  *int    `json:"inclusive_min_upper_case"`
	MinOther  *int    `json:"inclusive_min_other"`
	MinDays   *int    `json:"password_change_min_days"`
	History   *int    `json:"password_history_threshold"`
	Lifetime  *int    `json:"password_lifetime"`
}

func (in policyChange) apply(p *policy) *refusal {
	next := *p
	put(&next.Lockout, in.Lockout)
	for _, x := range []struct{ to, value *int }{
		{&next.MinLength, in.MinLength}, {&next.MaxLength, in.MaxLength}, {&next.MinDigits, in.MinDigits},
		{&next.MinLower, in.MinLower}, {&next.MinUpper, in.MinUpper}, {&next.MinOther, in.MinOther},
		{&next.MinDays, in.MinDays}, {&next.History, in.History}, {&next.Lifetime, in.Lifetime},
	} {
		put(x.to, x.value)
		if *x.to < 0 {
			return invalid("the policy's numbers cannot be negative")
		}
	}
	if next.MinLength > next.MaxLength || slices.ContainsFunc(next.Lockout, func(m int) bool { return m < 0 }) {
		return invalid("the policy allows nothing")
	}
	*p = next
	return nil
}

func (s *Server) listPolicies(c *call) (any, *refusal) {
	return list(c, s.state.Policies, map[string]filter[*policy]{
		"policy_name": like(func(p *policy) string { return p.Name }),
	}, func(p *policy) any { return p })
}

func (s *Server) createPolicy(c *call) (any, *refusal) {
	var in policyChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name == nil || *in.Name == "" {
		return nil, invalid("policy_name is required")
	}
	if s.policy(*in.Name) != nil {
		return nil, conflict("a policy of that name exists already")
	}
	p := globalPolicy()
	p.Name = *in.Name
	if no := in.apply(p); no != nil {
		return nil, no
	}
	s.state.Policies = append(s.state.Policies, p)
	c.changed = true
	return p, nil
}

func (s *Server) getPolicy(c *call) (any, *refusal) {
	p := s.policy(c.args["policy"])
	if p == nil {
		return nil, notFound()
	}
	return p, nil
}

func (s *Server) patchPolicy(c *call) (any, *refusal) {
	p := s.policy(c.args["policy"])
	if p == nil {
		return nil, notFound()
	}
	var in policyChange
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	if in.Name != nil && *in.Name != p.Name {
		return nil, invalid("policy_name: cannot be changed")
	}
	if no := in.apply(p); no != nil {
		return nil, no
	}
	c.changed = true
	return p, nil
}

func (s *Server) deletePolicy(c *call) (any, *refusal) {
	p := s.policy(c.args["policy"])
	switch {
	case p == nil:
		return nil, notFound()
	case p.Name == "global":
		return nil, protected("the global policy cannot be deleted")
	case slices.ContainsFunc(s.state.Users, func(u *user) bool { return u.Policy == p.Name }):
		return nil, conflict("the policy is in use")
	}
	s.state.Policies = remove(s.state.Policies, p)
	c.changed = true
	return nil, nil
}
