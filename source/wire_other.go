//go:build !linux

package source

const haveLowWater = false

func setLowWater(uintptr, int) error { return nil }
func readable(uintptr) int           { return 0 }
