package proc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports are taken below Linux's default ip_local_port_range (32768–60999), where no outgoing connection can take one
// between our look and the server's bind, nor while a server of ours is down and wants its port back.
const (
	firstPort = 20000
	lastPort  = 31999
)

var ports struct {
	sync.Mutex
	held map[int]*os.File // guarded by Mutex; kept for the life of the process
}

// FreePort returns a loopback port on which nothing listens, and which no other process gets from FreePort for as long
// as this one lives: a lock on a file per port says so. The same port is never returned twice by one process.
func FreePort() (int, error) {
	dir := filepath.Join(os.TempDir(), "walferry-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	ports.Lock()
	defer ports.Unlock()
	if ports.held == nil {
		ports.held = map[int]*os.File{}
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if ports.held[port] != nil {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, fmt.Errorf("free port: %w", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !unused(port) {
			if err := f.Close(); err != nil {
				return 0, fmt.Errorf("free port: %w", err)
			}
			continue
		}
		ports.held[port] = f
		return port, nil
	}
	return 0, errors.New("free port: none found between 20000 and 31999")
}

func unused(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
