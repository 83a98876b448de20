package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hurry has no garbage collected, within reason, until saveMemory is called:
// reading a large configuration and the cache makes much of it, and collecting
// that takes longer than the reading. GOGC overrides both.
func hurry() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(256 << 20)
	}
}

// saveMemory has garbage collected sooner than Go does by default: little is made
// per request, and most of what is kept are sealed values, which cost the
// collector nothing. What only starting has needed is given back, and once more
// when what goes on from there has come to rest.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(10)
		debug.SetMemoryLimit(math.MaxInt64)
	}
	giveBack()
	time.AfterFunc(restTime, giveBack)
}

// restTime is how long after a start, or after many fetches, only what is always
// needed is still in use.
const restTime = 30 * time.Second

func giveBack() {
	runtime.GC() // what lies in a pool, as much of the configuration does, outlasts one collection
	debug.FreeOSMemory()
	unmapProgram()
}

// unmapProgram gives back the pages of the program itself, of which starting needs
// nearly all and serving a third. The kernel maps each again when it is used. It
// touches only mappings that are as they are in the file, with no page, in memory
// or swapped out, that was changed; where it cannot tell, none.
func unmapProgram() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	var from, to uintptr // of the mapping that the lines are about; 0 if it is to stay
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		line := lines.Text()
		var a, b uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &a, &b, &mode); n == 3 {
			from, to = 0, 0
			if strings.HasSuffix(line, " "+self) && (mode == "r-xp" || mode == "r--p") {
				from, to = a, b
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch {
		case name != "Anonymous" && name != "Swap" || from == 0:
		case strings.TrimSpace(value) != "0 kB":
			from = 0
		case name == "Swap": // which comes after Anonymous
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // or they stay
		}
	}
}
