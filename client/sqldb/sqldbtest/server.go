package sqldbtest

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // for Admin
	_ "github.com/jackc/pgx/v5/stdlib" // for Admin
)

// A Server is a running database.
type Server struct {
	// Admin may do everything. It comes through the Unix socket.
	Admin  *sql.DB
	Port   int    // on 127.0.0.1
	Socket string // what a DSN calls the Unix socket: a directory for PostgreSQL, a file for MariaDB
	t      testing.TB
}

// Exec runs a statement as the administrator.
func (s *Server) Exec(statement string) {
	s.t.Helper()
	if _, err := s.Admin.ExecContext(s.t.Context(), statement); err != nil {
		s.t.Fatal(err)
	}
}

// Postgres starts a PostgreSQL in which logins by password are SCRAM, and whose
// pg_hba.conf does not let the user outsider in.
func Postgres(t testing.TB) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		missing(t, "postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	dir, as := directory(t, "postgres")
	data := filepath.Join(dir, "data")
	run(t, as, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "admin", "--auth", "trust", "--no-sync", "--no-locale", "--encoding", "UTF8")
	hba := "local all admin trust\nlocal all all scram-sha-256\nhost all outsider 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Server{Port: freePort(t), Socket: dir, t: t}
	daemon(t, as, syscall.SIGINT, filepath.Join(bin, "postgres"), "-D", data, "-c", "fsync=off", "-c", "max_connections=60", "-c", "dynamic_shared_memory_type=mmap",
		"-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(s.Port), "-c", "unix_socket_directories="+dir)
	s.open("pgx", fmt.Sprintf("host=%s port=%d user=admin dbname=postgres", dir, s.Port))
	return s
}

// MariaDB starts a MariaDB.
func MariaDB(t testing.TB) *Server {
	t.Helper()
	install, err := exec.LookPath("mariadb-install-db")
	if err != nil {
		missing(t, "mariadb-server")
	}
	dir, as := directory(t, "mysql")
	data := filepath.Join(dir, "data")
	run(t, as, install, "--no-defaults", "--datadir="+data, "--skip-test-db", "--auth-root-authentication-method=normal", "--skip-name-resolve")
	s := &Server{Port: freePort(t), Socket: filepath.Join(dir, "mysql.sock"), t: t}
	daemon(t, as, syscall.SIGKILL, "/usr/sbin/mariadbd", "--no-defaults", "--datadir="+data, "--socket="+s.Socket, "--port="+strconv.Itoa(s.Port),
		"--bind-address=127.0.0.1", "--pid-file="+filepath.Join(dir, "pid"), "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0")
	s.open("mysql", "root@unix("+s.Socket+")/")
	return s
}

// missing ends a test whose database is not installed.
func missing(t testing.TB, pkg string) {
	t.Helper()
	if os.Getenv("SIGNET_NEED_SERVERS") != "" {
		t.Fatalf("the package %s is not installed", pkg)
	}
	t.Skipf("the package %s is not installed", pkg)
}

// directory makes a directory on a tmpfs for a server, and says whom to run it
// as: root starts servers as the user of that name.
func directory(t testing.TB, name string) (string, *syscall.SysProcAttr) {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "signet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := &syscall.SysProcAttr{}
	if os.Getuid() != 0 {
		return dir, as
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32) // as the system's own table has it
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return dir, as
}

// run runs a program that ends.
func run(t testing.TB, as *syscall.SysProcAttr, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr, cmd.Dir = as, "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
}

// daemon runs a program until the test ends, and then sends it the signal.
func daemon(t testing.TB, as *syscall.SysProcAttr, stop syscall.Signal, argv ...string) {
	t.Helper()
	attr := *as
	attr.Pdeathsig = stop // also where the test is killed
	var log strings.Builder
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout, cmd.Stderr = &attr, "/", &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(stop)
		_ = cmd.Wait() // ended by the signal
		if t.Failed() {
			t.Logf("%s ended with\n%s", argv[0], log.String()[max(0, log.Len()-4000):])
		}
	})
}

// open waits until the server takes connections.
func (s *Server) open(driver, dsn string) {
	s.t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { db.Close() })
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for db.PingContext(ctx) != nil {
		select {
		case <-ctx.Done():
			s.t.Fatalf("no connection: %v", db.Ping())
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.Admin = db
}

// freePort is a port of 127.0.0.1 that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
