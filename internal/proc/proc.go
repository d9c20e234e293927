// Package proc runs the servers that tests and the demo start: child processes that end with the process that started
// them, loopback ports that no other test process takes, and locks between processes for downloads and installations.
//
// It is not a supervisor: nothing is restarted, and nothing is found by name. A Process is known by its pid alone.
package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// ErrRunning is returned by Wait when the process is still there at the end of the time given.
var ErrRunning = errors.New("process is still running")

// Process is a started child. Its methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // what cmd.Wait said; readable once done is closed
}

// Start starts cmd and lives on with it: where the system can do so (Linux), the child gets onDeath when this process
// ends for whatever reason, kill -9 included. The child has a process group of its own, so that ^C in a terminal
// reaches this process only, which then ends its children in the order it wants.
//
// cmd.SysProcAttr may carry credentials; its group and death signal are set here.
func Start(cmd *exec.Cmd, onDeath syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	setDeathSignal(cmd.SysProcAttr, onDeath)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and Go ends
		// threads when it likes (golang.org/issue/27505). So one thread belongs to each child until it is reaped.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// PID is the child's process id. It stays what it was after the child's end.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the child has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err is what exec.Cmd.Wait returned, nil for exit code 0; it must be asked after Done only.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends sig to the child alone. A child that has ended already is not an error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to pid %d: %w", sig, p.PID(), err)
	}
	return nil
}

// Wait waits for the child's end, at most for the time given, and then returns ErrRunning. How the child ended is in Err.
func (p *Process) Wait(atMost time.Duration) error {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
		return fmt.Errorf("pid %d after %s: %w", p.PID(), atMost, ErrRunning)
	}
}

// Stop sends sig, waits at most for the time given, and ends with SIGKILL what has not ended by then, which it reports
// as ErrRunning: a server that does not stop when told to is something a test wants to know.
func (p *Process) Stop(sig os.Signal, atMost time.Duration) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	late := p.Wait(atMost)
	if late == nil {
		return nil
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return errors.Join(late, err)
	}
	<-p.done
	return late
}
