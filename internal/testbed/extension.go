package testbed

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// missingLine begins the lines that the runner of the tests repeats before its account: what no test could be made with.
const missingLine = "not tested, extension missing: "

// Extension creates an extension in Shop. Where the server has none of that name it says so in a line of output and returns
// false, unless WALFERRY_TEST_EXTENSIONS lists the name: then the test fails.
func (p *PG) Extension(name, remedy string) bool {
	p.t.Helper()
	c := p.Connect(Superuser)
	var there bool
	if err := c.QueryRow(p.t.Context(), "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", name).Scan(&there); err != nil {
		p.t.Fatal(err)
	}
	if there {
		p.Exec(Superuser, "CREATE EXTENSION "+name)
		return true
	}
	if slices.Contains(strings.Split(os.Getenv("WALFERRY_TEST_EXTENSIONS"), ","), name) {
		p.t.Fatalf("the server has no extension %s (%s), and WALFERRY_TEST_EXTENSIONS wants it", name, remedy)
	}
	// At the start of a line, where the runner looks for it.
	_, _ = fmt.Printf("\n%s%s (%s)\n", missingLine, name, remedy)
	return false
}
