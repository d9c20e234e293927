package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// PeakMemory is the most that the child has had resident so far, in bytes: VmHWM of proc(5), so on Linux only and while the
// child runs. The rusage of a child that has ended would not do: it begins with what this process had at the fork.
func (p *Process) PeakMemory() (int64, error) {
	file := fmt.Sprintf("/proc/%d/status", p.PID())
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no VmHWM: the process has ended", file)
}
