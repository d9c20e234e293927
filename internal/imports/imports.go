// Package imports holds a test: which package of walferry may import which. The import graph is policy here, and a new
// arrow is a decision, made in the table of imports_test.go with the change that needs it.
package imports
