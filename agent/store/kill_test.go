package store

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIGNET_TEST_WRITER"); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver prints each number once it is written.
func writeForEver(dir string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	if d := s.Damaged(); d != nil {
		return d
	}
	for i := next(s); ; i++ {
		key := LedgerKey{ID: strconv.Itoa(i), Token: "t", Name: "host", Generation: i, State: "live"}
		if err := s.SaveKey(key); err != nil {
			return err
		}
		if err := s.SaveSecret("db", []byte(strconv.Itoa(i))); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func next(s *Store) int {
	keys, err := s.Keys()
	if err != nil {
		return -1
	}
	return len(keys) + 1
}

// TestKilled holds that what a method has acknowledged survives kill -9 at any
// moment, and that the lock does not.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SIGNET_TEST_WRITER="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		last, lines := 0, bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if n == 3+round*2 {
				must(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // killed
		s := open(t, dir)
		if s.Damaged() != nil {
			t.Fatal(s.Damaged())
		}
		keys, err := s.Keys()
		must(t, err)
		secrets, err := s.Secrets()
		must(t, err)
		value, _ := strconv.Atoi(string(secrets["db"]))
		if len(keys) < last || value < last || len(keys) > value+1 || last == 0 {
			t.Fatalf("round %d: acknowledged %d, found %d keys and secret %d", round, last, len(keys), value)
		}
		must(t, s.Close())
	}
}
