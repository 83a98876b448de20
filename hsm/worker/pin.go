package worker

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/signet-agent/signet/hsm/wire"
)

// maxPIN bounds what is read as a PIN; CK_TOKEN_INFO knows no longer ones.
const maxPIN = 255

// readPIN reads the PIN from where src says; nil if src says nothing. A line
// end after it is not part of it.
func readPIN(src wire.PINSource) (pin []byte, warning string, err error) {
	var from string
	switch {
	case src.Env != "":
		from = "environment variable " + src.Env
		pin = []byte(os.Getenv(src.Env))
		os.Unsetenv(src.Env)
	case src.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || filepath.Base(src.Credential) != src.Credential {
			return nil, "", &wire.Error{Name: wire.PINUnreadable,
				Text: fmt.Sprintf("read PIN from credential %q: the service manager has given no such credential", src.Credential)}
		}
		from = filepath.Join(dir, src.Credential)
		pin, _, err = readPINFile(from)
	case src.File != "":
		from = src.File
		pin, warning, err = readPINFile(from)
	default:
		return nil, "", nil
	}
	if err != nil {
		return nil, "", &wire.Error{Name: wire.PINUnreadable, Text: "read PIN: " + err.Error()}
	}
	pin = bytes.TrimSuffix(bytes.TrimSuffix(pin, []byte("\n")), []byte("\r"))
	if len(pin) == 0 {
		return nil, "", &wire.Error{Name: wire.PINEmpty, Text: "read PIN from " + from}
	}
	if len(pin) > maxPIN {
		clear(pin)
		return nil, "", &wire.Error{Name: wire.PINUnreadable, Text: fmt.Sprintf("read PIN from %s: longer than %d bytes", from, maxPIN)}
	}
	return pin, warning, nil
}

func readPINFile(name string) (pin []byte, warning string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o007 != 0 {
		warning = fmt.Sprintf("PIN file %s has mode %#o: everyone may read it; take that from them: chmod o= on it", name, st.Mode().Perm())
	}
	pin, err = io.ReadAll(io.LimitReader(f, maxPIN+3))
	return pin, warning, err
}

// quickDigest tells PINs apart within the life of the daemon, which alone has the
// key. It is nil for no PIN.
func quickDigest(pin, key []byte) []byte {
	if pin == nil {
		return nil
	}
	h := hmac.New(sha256.New, key)
	h.Write(pin)
	return h.Sum(nil)
}

// pinDigest tells PINs apart without being one. It is nil for no PIN.
func pinDigest(pin, salt []byte) ([]byte, error) {
	if pin == nil {
		return nil, nil
	}
	sum := sha256.Sum256(pin) // because a string cannot be erased
	return pbkdf2.Key(sha256.New, string(sum[:]), salt, digestRounds, sha256.Size)
}
