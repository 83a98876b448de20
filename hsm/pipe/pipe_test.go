package pipe

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe waits in the poller for what it cannot do at once, gives the caller
// a chance to leave, and tells the end of the other side from silence.
func TestAPipeWaitsOutsideTheKernel(t *testing.T) {
	t.Parallel()
	p, in, out, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	for _, ours := range []*os.File{p.in, p.out} {
		raw, err := ours.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("%s: a call on it could wait unseen: flags %o, %v", ours.Name(), flags, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading what does not come: %v", err)
	}
	sent := bytes.Repeat([]byte("a pipe holds 64 KiB "), 10_000)
	echoed := make(chan error, 1)
	go func() {
		got := make([]byte, len(sent))
		_, err := io.ReadFull(in, got)
		if err == nil && !bytes.Equal(got, sent) {
			err = errors.New("something else arrived")
		}
		closeAll(in, out)
		echoed <- err
	}()
	if n, err := p.Write(sent); n != len(sent) || err != nil {
		t.Errorf("%d of %d bytes written: %v", n, len(sent), err)
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("reading from a process that has ended: %v", err)
	}
	if _, err := p.Write(sent); !errors.Is(err, unix.EPIPE) {
		t.Errorf("writing to a process that has ended: %v", err)
	}
}

// A question goes with the read of its answer, also when that is taken up again
// after a while, once; a question to a process that has ended is an error there.
func TestAQuestionIsSentOnce(t *testing.T) {
	t.Parallel()
	p, in, out, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if _, err := p.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	for range 2 {
		if _, err := p.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("reading what does not come: %v", err)
		}
	}
	if n, err := in.Read(got); err != nil || string(got[:n]) != "who?" {
		t.Fatalf("the other side was asked %q, %v", got[:n], err)
	}
	if _, err := out.WriteString("I"); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Read(got); err != nil || string(got[:n]) != "I" {
		t.Errorf("the answer is %q, %v", got[:n], err)
	}
	closeAll(in)
	if _, err := p.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(got); !errors.Is(err, unix.EPIPE) {
		t.Errorf("asking a process that has ended: %v", err)
	}
	closeAll(out)
	if _, err := p.Read(got); !errors.Is(err, io.EOF) {
		t.Errorf("reading from a process that has ended: %v", err)
	}
}
