//go:build !linux

package proc

import "syscall"

// Only Linux tells a child of its parent's death. Elsewhere a parent that is killed leaves its servers behind.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
