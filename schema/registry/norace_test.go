//go:build !race

package registry_test

const badRequests = 100_000
