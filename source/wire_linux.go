package source

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const haveLowWater = true

// setLowWater sets how many bytes make the socket readable (socket(7); honoured by epoll since Linux 4.18).
func setLowWater(fd uintptr, n int) error {
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
}

// readable returns how many bytes can be read without waiting, 0 when that cannot be told (tcp(7), SIOCINQ).
func readable(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	if err != nil {
		return 0
	}
	return n
}
