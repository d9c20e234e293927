package testbed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"walferry/internal/workload"
)

// Oracle says where truth and topics are. Fault and Wait may be left out.
type Oracle struct {
	// DSN of the database that package workload wrote to, for a role that reads all of it: the audit and the tables. The
	// export is of one snapshot: nothing may write while the oracle runs.
	DSN string
	// Brokers, separated by commas.
	Brokers string
	// Registry is the URL of the schema registry.
	Registry string
	// Prefix of the topics PREFIX.schema.table.
	Prefix string
	// Wait for changes that are missing. 0 is a minute. What has not come by then is lost.
	Wait time.Duration
	// Limit of the time that reading takes. 0 is half an hour.
	Limit time.Duration
	// Fault is planted in what was read: one of those that oracle.py names.
	Fault string
}

// Account is the oracle's answer, as described at the top of testdata/oracle/oracle.py.
type Account struct {
	Committed    int      `json:"committed"`
	Received     int      `json:"received"`
	Missing      int      `json:"missing"`
	Repeated     int      `json:"repeated"`
	Disordered   int      `json:"disordered"`
	Different    int      `json:"different"`
	Unexpected   int      `json:"unexpected"`
	Tombstones   int      `json:"tombstones"`
	DuplicateIDs int      `json:"duplicate_ids"`
	FoldMismatch int      `json:"fold_mismatch"`
	Stale        int      `json:"stale"`
	Reread       int      `json:"reread"`
	Contained    int      `json:"contained"`
	Records      int      `json:"records"`
	Reads        int      `json:"reads"`
	Seconds      float64  `json:"seconds"`
	Samples      []string `json:"samples"`
}

// Clean reports whether every committed change was read exactly once, in order, and with its values.
func (a Account) Clean() bool {
	return a.Committed == a.Received && a.Missing+a.Repeated+a.Disordered+a.Different+a.Unexpected+a.Tombstones+
		a.DuplicateIDs+a.FoldMismatch+a.Stale+a.Reread == 0
}

func (a Account) String() string {
	return fmt.Sprintf("committed %d, received %d, missing %d, repeated %d, disordered %d, different %d, unexpected %d, "+
		"tombstones %d, duplicate ids %d, fold mismatches %d, stale %d, reread %d\n%s", a.Committed, a.Received, a.Missing, a.Repeated,
		a.Disordered, a.Different, a.Unexpected, a.Tombstones, a.DuplicateIDs, a.FoldMismatch, a.Stale, a.Reread, strings.Join(a.Samples, "\n"))
}

// Run exports the truth and compares it with the topics. It fails the test only when the answer could not be found; what
// the answer is, the caller judges.
func (o Oracle) Run(t testing.TB) Account {
	t.Helper()
	python := Python(t)
	audit := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := o.export(t, audit); err != nil {
		t.Fatal(err)
	}
	args := []string{filepath.Join(Root(t), "testdata", "oracle", "oracle.py"), "--brokers", o.Brokers,
		"--registry", o.Registry, "--prefix", o.Prefix, "--audit", audit}
	if o.Wait > 0 {
		args = append(args, "--wait", fmt.Sprint(o.Wait.Seconds()))
	}
	if o.Limit > 0 {
		args = append(args, "--limit", fmt.Sprint(o.Limit.Seconds()))
	}
	if o.Fault != "" {
		args = append(args, "--break", o.Fault)
	}
	cmd := exec.CommandContext(t.Context(), python, args...)
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && (!errors.As(err, &ended) || ended.ExitCode() != 1) {
		t.Fatalf("oracle: %v: %s", err, &complained)
	}
	var a Account
	if err := json.Unmarshal(said.Bytes(), &a); err != nil {
		t.Fatalf("oracle: %v: %q: %s", err, &said, &complained)
	}
	if a.Clean() != (ended == nil) {
		t.Fatalf("oracle: exit code and account disagree: %v, %s", err, a)
	}
	return a
}

func (o Oracle) export(t testing.TB, path string) error {
	c, err := pgx.Connect(t.Context(), o.DSN)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return errors.Join(err, c.Close(started(t)))
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = workload.Export(t.Context(), c, w)
	return errors.Join(err, w.Flush(), f.Close(), c.Close(started(t)))
}
