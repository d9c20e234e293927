//go:build race

package registry_test

// badRequests under the race detector, which makes each request some ten times slower; `make test` sends all of them
// without it.
const badRequests = 2_000
