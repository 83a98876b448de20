package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-agent/signet/agent/config"
	"github.com/signet-agent/signet/upstream"
)

// newHookRig is a consumer of a certificate that fails while there is a file called
// fail, and writes down what it reads.
func newHookRig(t *testing.T, f config.File) (r *consumerRig, dir string) {
	t.Helper()
	dir = t.TempDir()
	hook := filepath.Join(dir, "hook")
	script := "#!/bin/sh\ncd " + dir + "\ncat password >>read\ntest ! -e fail\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(hook, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	f.Certificate, f.Reload = "web", config.Reload{Exec: []string{hook}}
	return newConsumerRig(t, dir, f), dir
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Two certificates of one file that are renewed in one burst, and refused, both go
// back to those that the consumer has taken up.
func TestABurstThatIsRefusedGoesBackToWhatWorked(t *testing.T) {
	f := config.File{}
	f.Template = "{{ (certificate \"web\").serial }}+{{ (certificate \"other\").serial }}\n"
	r, dir := newHookRig(t, f)
	defer r.run()()
	ca := newRecipeCA(t)
	renew := func(names ...string) {
		t.Helper()
		for _, name := range names {
			c := ca.issue()
			c.Name = name
			if err := r.files.PublishCertificate(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	renew("web", "other")
	r.await(stateReloaded)
	good := readFile(t, r.file)
	if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	renew("web", "other")
	r.await(stateRolledBack)
	read := readFile(t, dir, "read")
	if now := readFile(t, r.file); now != good || !strings.HasSuffix(read, good) {
		t.Errorf("rolled back to %q, read %q; want %q", now, read, good)
	}
}

// A certificate of a compromised key does not come back, whatever goes wrong with the
// one after it, nor does its key stay anywhere.
func TestACompromisedCertificateDoesNotComeBack(t *testing.T) {
	f := config.File{}
	f.Template = "{{ (certificate \"web\").serial }}\n"
	r, dir := newHookRig(t, f)
	defer r.run()()
	ca := newRecipeCA(t)
	rot := &rotator{name: "web"}
	publish := func(v version) {
		t.Helper()
		v.KeyID, v.Chain = "web", ca.issue().Chain
		rot.rec.Next = v
		c, err := rot.delivered(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.files.PublishCertificate(c); err != nil {
			t.Fatal(err)
		}
		if rot.rec.Current.exists() {
			rot.rec.Old = append(rot.rec.Old, rot.rec.Current)
		}
		rot.rec.Current, rot.rec.Next = v, version{}
	}
	kept := filepath.Join(dir, ".signet-prev-password")
	refuse := func(refuses bool) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, "fail")); err != nil {
			t.Fatal(err)
		}
		if refuses {
			if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(version{Generation: 1, Kind: upstream.Register})
	r.await(stateReloaded)
	for _, v := range []version{{Generation: 1, Kind: upstream.Renew}, {Generation: 2, Kind: upstream.Rotate}} {
		before := r.consumer().ReloadedAt
		publish(v)
		eventuallyTrue(t, "the reload", func() bool { it := r.consumer(); return it.State == stateReloaded && it.ReloadedAt.After(before) })
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Fatalf("nothing is kept of an ordinary rotation: %v", err)
	}

	refuse(true)
	publish(version{Generation: 3, Kind: upstream.Rotate, Compromised: true})
	fresh := readFile(t, r.file)
	for range 2 {
		it := r.await(stateFailed)
		if now := readFile(t, r.file); now != fresh || !strings.Contains(it.LastError, "not rolled back") || !strings.Contains(it.LastError, "certificate web is revoked") {
			t.Errorf("%q in place, want %q; %s", now, fresh, it.LastError)
		}
		if _, err := os.Lstat(kept); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("kept: %v", err)
		}
		before := it.RetryAt
		publish(version{Generation: 3, Kind: upstream.Renew})
		fresh = readFile(t, r.file)
		eventuallyTrue(t, "another try", func() bool { return r.consumer().RetryAt.After(before) })
	}

	refuse(false)
	publish(version{Generation: 3, Kind: upstream.Renew})
	r.await(stateReloaded)
	fresh = readFile(t, r.file)
	refuse(true)
	publish(version{Generation: 4, Kind: upstream.Rotate})
	r.await(stateRolledBack)
	if now := readFile(t, r.file); now != fresh {
		t.Errorf("rolled back to %q, want %q", now, fresh)
	}
}

// Which certificates are revoked is read off from what the rotator remembers.
func TestFromWhichKeyOnACertificateIsUsable(t *testing.T) {
	chain := [][]byte{{1}}
	key := func(n int, kind upstream.RequestKind, compromised bool) version {
		return version{KeyID: "k", Generation: n, Kind: kind, Compromised: compromised, Chain: chain}
	}
	const reg, renew, rotate = upstream.Register, upstream.Renew, upstream.Rotate
	for name, tt := range map[string]struct {
		v, current version
		old        []version
		manager    bool
		want       int
	}{
		"the first":                        {v: key(1, reg, false)},
		"rotated":                          {v: key(2, rotate, false), current: key(1, reg, false)},
		"compromised":                      {v: key(2, rotate, true), current: key(1, reg, false), want: 2},
		"renewed since":                    {v: key(2, renew, false), current: key(2, rotate, true), old: []version{key(1, reg, false)}, want: 2},
		"renewed twice since":              {v: key(2, renew, false), current: key(2, renew, false), old: []version{key(2, rotate, true)}, want: 2},
		"rotated since":                    {v: key(3, rotate, false), current: key(2, rotate, true), want: 2},
		"rotated at a Manager":             {v: key(2, rotate, false), current: key(1, reg, false), manager: true, want: 2},
		"renewed at a Manager":             {v: key(1, renew, false), current: key(1, reg, false), manager: true, want: 1},
		"what came to nothing":             {v: key(1, renew, false), current: key(1, reg, false), old: []version{{KeyID: "k", Generation: 2, Compromised: true}}},
		"back to an older one of that key": {v: key(2, renew, false), current: key(2, renew, false), old: []version{key(1, reg, false), key(2, rotate, true)}, want: 2},
	} {
		r := &rotator{spec: certificateSpec{AsIs: tt.manager}, rec: record{Current: tt.current, Old: tt.old}}
		if got := r.usableFrom(tt.v); got != tt.want {
			t.Errorf("%s: usable from %d, want %d", name, got, tt.want)
		}
	}
}
