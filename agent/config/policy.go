package config

// Rule allows what it names to the callers that it names.
type Rule struct {
	Callers Callers `yaml:"callers"`
	Allow   Allow   `yaml:"allow"`
}

// Callers are local processes: those of any of the users, of any of the groups,
// or in any of the systemd units.
type Callers struct {
	// Users and Groups are names or numbers.
	Users  []string `yaml:"users"`
	Groups []string `yaml:"groups"`
	Units  []string `yaml:"units"`
}

// Allow is what a rule gives. In the lists of names, "*" stands for all.
type Allow struct {
	Secrets      []string `yaml:"secrets"`
	Certificates []string `yaml:"certificates"`
	// Keys says for a key, named after its identity or certificate, what may
	// be done with it: sign, or read for its public half alone.
	Keys map[string][]string `yaml:"keys"`
	// Tokens are the upstreams whose access token is given out.
	Tokens []string `yaml:"tokens"`
	// Proxy says for an upstream which requests are forwarded: "GET /iso/*".
	// "*" stays within one segment of the path, "**" does not.
	Proxy map[string][]string `yaml:"proxy"`
	// Metrics shows all metrics. Without it a caller sees those of the items that
	// it may read.
	Metrics bool `yaml:"metrics"`
	// Admin covers enroll, renew, rotate, login, logout, the status of all,
	// plan, doctor and audit.
	Admin bool `yaml:"admin"`
}
