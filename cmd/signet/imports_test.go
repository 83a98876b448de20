package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/signet-agent/signet/"

// mayImport is the shape of the program: for each package, the packages of ours
// that it may import. A package that is not here may import none. A line that
// is added here is a decision; see docs/decisions.
var mayImport = map[string][]string{
	// Administration by command line uses the agent's own clients through its
	// proxy.
	"cmd/signet":     {"agent", "agent/config", "client", "internal/access", "internal/secret", "systemd", "upstream", "upstream/ciphertrust", "upstream/manager"},
	"cmd/signet-hsm": {"hsm/worker"},
	"cmd/signet-sim": {"client", "upstream/ciphertrust/ciphertrusttest", "upstream/manager/managertest", "upstream/senhasegura/senhaseguratest", "upstream/upstreamtest"},

	"agent": {"agent/config", "agent/store", "hsm", "internal/access", "internal/secret", "sinks", "sinks/consumers", "sinks/credentials", "sinks/files", "sinks/socket", "systemd",
		"upstream", "upstream/ciphertrust", "upstream/manager", "upstream/senhasegura"},
	"agent/config": {"internal/access", "internal/itemref", "internal/secret", "internal/tokenuri"},
	"agent/store":  {"internal/secret"},

	"hsm":         {"hsm/pipe", "hsm/wire", "internal/secret", "internal/tokenuri"},
	"hsm/worker":  {"hsm/wire", "internal/secret"},
	"hsm/hsmtest": {"hsm", "hsm/wire"},

	// A simulator does not know the client of its product: both are written
	// from what is known of the product itself.
	"upstream":                             {"internal/secret"},
	"upstream/ciphertrust":                 {"upstream", "internal/secret"},
	"upstream/manager":                     {"upstream", "internal/secret"},
	"upstream/manager/managertest":         {"upstream/upstreamtest"},
	"upstream/senhasegura":                 {"upstream", "internal/secret"},
	"upstream/ciphertrust/ciphertrusttest": {"upstream/upstreamtest"},
	"upstream/senhasegura/senhaseguratest": {"upstream/upstreamtest"},

	"sinks":             {"internal/secret"},
	"sinks/credentials": {"sinks", "internal/access", "internal/secret"},
	"sinks/files":       {"sinks", "internal/itemref", "internal/secret"},
	"sinks/consumers":   {"internal/secret", "systemd"},
	"sinks/socket":      {"sinks", "internal/access", "internal/secret"},
	"internal/access":   {"internal/secret"},

	"client/sqldb":           {"client"},
	"client/sqldb/postgres":  {"client", "client/sqldb"},
	"client/sqldb/mysql":     {"client", "client/sqldb"},
	"client/sqldb/oracle":    {"client", "client/sqldb"},
	"client/sqldb/sqldbtest": {"client"},
}

// only says which of our packages may bring in something dangerous or large.
var only = map[string][]string{
	"C":                               {"hsm/worker"},
	"github.com/miekg/pkcs11":         {"hsm/worker"},
	"github.com/ThalesGroup/crypto11": {"hsm/worker"},
	"github.com/goccy/go-yaml":        {"agent/config"},
	"modernc.org/sqlite":              {"agent/store"},
	"github.com/jackc/pgx":            {"client/sqldb/postgres", "client/sqldb/sqldbtest"},
	"github.com/go-sql-driver/mysql":  {"client/sqldb/mysql", "client/sqldb/sqldbtest"},
	"github.com/sijms/go-ora":         {"client/sqldb/oracle"},
	"os/exec":                         {"hsm", "hsm/hsmtest", "cmd/signet", "cmd/signet-sim", "client/sqldb/sqldbtest", "sinks/consumers"},
	"unsafe":                          {"hsm/pipe", "hsm/worker", "internal/access", "internal/secret", "sinks/socket"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkg := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(mayImport[pkg], ours) {
				t.Errorf("%s imports %s", pkg, ours)
			}
			for bad, owners := range only {
				if (imp == bad || strings.HasPrefix(imp, bad+"/")) && !slices.Contains(owners, pkg) {
					t.Errorf("%s imports %s, which is for %v alone", pkg, imp, owners)
				}
			}
		}
	}
}
