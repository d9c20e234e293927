package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Role is what a user may do.
type Role string

// The roles.
const (
	Reader Role = "read"  // look up, and check what would be compatible
	Writer Role = "write" // everything
)

// User is somebody whom a server knows, by a password (HTTP basic authentication) or by a token (bearer).
type User struct {
	Name            string // may be empty beside a token
	Password, Token string // one of them
	Role            Role
}

// authorize lets a request through, or says who would be.
func (s *Server) authorize(r *http.Request, write bool) error {
	if write && s.cfg.ReadOnly != "" {
		return &Error{CodeReadOnly, s.cfg.ReadOnly}
	}
	asked := s.cfg.Closed
	if write {
		asked = asked || slices.ContainsFunc(s.cfg.Users, func(u User) bool { return u.Role == Writer })
	}
	if !asked {
		return nil
	}
	u, known := s.user(r)
	switch {
	case !known && write:
		return &Error{401, "HTTP 401 Unauthorized: writes need a user or a token of registry.auth or registry.users"}
	case !known:
		return &Error{401, "HTTP 401 Unauthorized: reads need a user or a token of registry.auth or registry.users"}
	case write && u.Role != Writer:
		return &Error{CodeReadOnly, fmt.Sprintf("user %s may read and not write: give it role: write in registry.users", u.Name)}
	}
	return nil
}

// user finds who sends a request.
func (s *Server) user(r *http.Request) (found User, known bool) {
	name, password, basic := r.BasicAuth()
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	bearer := strings.EqualFold(scheme, "bearer")
	for _, u := range s.cfg.Users { // all of them: how long it takes tells nothing
		ok := basic && u.Password != "" && same(name, u.Name)&same(password, u.Password) == 1 ||
			bearer && u.Token != "" && same(strings.TrimSpace(token), u.Token) == 1
		if ok {
			found, known = u, true
		}
	}
	return found, known
}

// same compares in a time that does not depend on where the two differ, nor on how long they are.
func same(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
