package config

import (
	"maps"
	"slices"
	"strings"
)

// ReloadedUnits are the systemd units that are reloaded for files.
func (c *Config) ReloadedUnits() []string {
	units := map[string]bool{}
	for _, f := range c.Files {
		if f.Reload.Unit != "" {
			units[f.Reload.Unit] = true
		}
	}
	return slices.Sorted(maps.Keys(units))
}

// CredentialUnits are the systemd units that may have credentials: those that
// the policy gives secrets or certificates to. Only services can load any; a
// scope asks over the socket. Without a credentials socket there are none.
func (c *Config) CredentialUnits() []string {
	units := map[string]bool{}
	for _, r := range c.Policy {
		if c.CredentialsSocket.Path == "" || len(r.Allow.Secrets)+len(r.Allow.Certificates) == 0 {
			continue
		}
		for _, unit := range r.Callers.Units {
			if strings.HasSuffix(unit, ".service") {
				units[unit] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(units))
}
