package agent

import (
	"errors"
	"os"

	"github.com/signet-agent/signet/agent/config"
)

// readCredentials reads the one-time credentials of a first registration; false
// if there is no such file, as after they were used.
func readCredentials(path string) (credentials, bool, error) {
	blob, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return credentials{}, false, nil
	}
	if err != nil {
		return credentials{}, false, err
	}
	defer clear(blob)
	user, pass, err := config.ParseEnrolment(path, blob)
	return credentials{user, pass}, err == nil, err
}

// shred overwrites a file and deletes it. On a file system that copies on write
// the overwriting is of no use, and deleting is what can be done.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	err = errors.Join(err, f.Sync(), f.Close())
	return errors.Join(err, os.Remove(path))
}
