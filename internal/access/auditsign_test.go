package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A stamp is a signing key in memory.
type stamp struct {
	*ecdsa.PrivateKey
	err error
}

func newStamp(t *testing.T) *stamp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &stamp{PrivateKey: key}
}

func (s *stamp) sign(_ context.Context, digest [sha256.Size]byte) ([]byte, string, error) {
	if s.err != nil {
		return nil, "", s.err
	}
	sig, err := ecdsa.SignASN1(rand.Reader, s.PrivateKey, digest[:])
	return sig, "audit#1", err
}

func (s *stamp) keys() map[string]crypto.PublicKey {
	return map[string]crypto.PublicKey{"audit#1": s.Public()}
}

// verifyAll follows the chain through all files of an audit.
func verifyAll(t *testing.T, path string, keys map[string]crypto.PublicKey) (*Verifier, error) {
	t.Helper()
	files, err := AuditFiles(path)
	if err != nil {
		t.Fatal(err)
	}
	v := &Verifier{Keys: keys}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Read(bytes.NewReader(text)); err != nil {
			return v, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
	}
	return v, nil
}

// The chain alone can be made anew by who can write the file. The signatures
// cannot.
func TestSignedChainCannotBeMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	key := newStamp(t)
	a := openAudit(t, AuditConfig{Path: path, Sign: key.sign})
	for i := range 5 {
		if err := a.Append(read(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(a.SignHead(t.Context()), a.Append(read(6)), a.Close()); err != nil {
		t.Fatal(err)
	}
	v, err := verifyAll(t, path, key.keys())
	if err != nil || v.Lines != 8 || v.Signed != 6 || v.Unsigned != 2 {
		t.Fatalf("%d lines, %d signed, %d not; %v", v.Lines, v.Signed, v.Unsigned, err)
	}
	if _, err := verifyAll(t, path, newStamp(t).keys()); err == nil || !strings.Contains(err.Error(), "not one of key") {
		t.Errorf("with another key: %v", err)
	}

	// Somebody takes the third line out and repairs the chain.
	text, _ := os.ReadFile(path)
	lines := bytes.SplitAfter(text, []byte("\n"))
	forged := forge(slices.Concat(lines[:2], lines[3:len(lines)-1]))
	if err := os.WriteFile(path, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := follow(forged, ""); err != nil {
		t.Fatalf("the forgery is a bad one: %v", err)
	}
	if _, err := verifyAll(t, path, key.keys()); err == nil || !strings.Contains(err.Error(), "signs a line that is not") {
		t.Errorf("a forged chain: %v", err)
	}
}

// forge makes the chain of lines anew.
func forge(lines [][]byte) []byte {
	var out []byte
	prev := strings.Repeat("0", 64)
	for _, line := range lines {
		at := bytes.LastIndex(line, []byte(`"prev":"`)) + len(`"prev":"`)
		line = fmt.Appendf(nil, "%s%s\"}", line[:at], prev)
		prev = fmt.Sprintf("%x", sha256.Sum256(line))
		out = append(append(out, line...), '\n')
	}
	return out
}

func TestSigningFailsAndIsMadeUpFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	key := newStamp(t)
	key.err = errors.New("the token is away")
	a := openAudit(t, AuditConfig{Path: path, Sign: key.sign})
	if err := a.SignHead(t.Context()); !errors.Is(err, key.err) {
		t.Errorf("signed: %v", err)
	}
	if err := a.Append(read(1)); err != nil {
		t.Errorf("without a signature nothing is recorded: %v", err)
	}
	key.err = nil
	if err := errors.Join(a.SignHead(t.Context()), a.Close()); err != nil {
		t.Fatal(err)
	}
	if v, err := verifyAll(t, path, key.keys()); err != nil || v.Signed != 2 {
		t.Errorf("%d lines signed, %v", v.Signed, err)
	}
}

// However many lines there are, a signature follows ten thousand of them.
func TestManyLinesAreSigned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	key := newStamp(t)
	a := openAudit(t, AuditConfig{Path: path, Sign: key.sign})
	for i := range 2*signLines + 10 {
		if err := a.Append(read(i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a signature", func() bool {
		text, _ := os.ReadFile(path)
		return bytes.Contains(text, []byte(eventSigned))
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := verifyAll(t, path, key.keys()); err != nil || v.Signed == 0 {
		t.Errorf("%d of %d lines signed, %v", v.Signed, v.Lines, err)
	}
}

// A file that has grown large is set aside; the chain goes on, over restarts
// too, and as many as were asked for are kept.
func TestLargeFileIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	key := newStamp(t)
	for range 4 {
		a := openAudit(t, AuditConfig{Path: path, MaxSize: 4 << 10, Keep: 3, Sign: key.sign})
		for i := range 30 {
			if err := errors.Join(a.Append(read(i)), a.SignHead(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if v, err := verifyAll(t, path, key.keys()); err != nil || v.Signed == 0 || v.Done() != nil {
			t.Fatalf("%d lines, %d signed: %v, %v", v.Lines, v.Signed, err, v.Done())
		}
	}
	files, err := AuditFiles(path)
	if err != nil || len(files) != 4 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if err := os.Rename(files[0], files[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if v, err := verifyAll(t, path, nil); err != nil || v.Done() == nil || !strings.Contains(v.Done().Error(), "its beginning is missing") {
		t.Errorf("a file is missing that the agent has not removed: %v, %v", err, v.Done())
	}
	if err := os.Rename(files[0]+".away", files[0]); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(files[1])
	if err := os.WriteFile(files[1], text[:bytes.LastIndexByte(text[:len(text)-1], '\n')+1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyAll(t, path, key.keys()); err == nil {
		t.Error("a line is missing at the end of a file that was set aside, and nobody noticed")
	}
}

// Whoever renames the file while no agent runs does not break the chain.
func TestChainGoesOnFromARotatedFileAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for i := range 2 {
		a := openAudit(t, AuditConfig{Path: path})
		if err := errors.Join(a.Append(read(i)), a.Close()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if v, err := verifyAll(t, path, nil); err != nil || v.Lines != 4 {
		t.Errorf("%d lines, %v", v.Lines, err)
	}
}

// TestCloseWaitsForASignature holds that nothing is asked of the state any more when
// the audit is closed, as that is closed next.
func TestCloseWaitsForASignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun, ended atomic.Int32
		sign := func(ctx context.Context, _ [sha256.Size]byte) ([]byte, string, error) {
			begun.Add(1)
			defer ended.Add(1)
			<-ctx.Done()
			time.Sleep(time.Second) // it is still at it
			return nil, "", ctx.Err()
		}
		a, err := OpenAudit(AuditConfig{Path: filepath.Join(t.TempDir(), "audit.jsonl"), Sign: sign})
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; begun.Load() == ended.Load(); i++ {
			if err := a.Append(read(i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if b, e := begun.Load(), ended.Load(); b != e {
			t.Errorf("%d signatures were begun and %d had ended when it was closed", b, e)
		}
	})
}
