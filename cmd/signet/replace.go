package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// replaceFile puts a file in place as a whole: whoever reads it meanwhile, or
// after this has failed, finds what was there before. A symbolic link stays one,
// and what is no file, such as a device, stays what it is.
func replaceFile(path, text string, mode os.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("replace %s: it is not a regular file", path)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	// Of no ending, so that nobody who reads the directory takes it for a file of theirs.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".signet-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
