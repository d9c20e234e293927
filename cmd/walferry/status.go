package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"walferry/internal/admin"
	"walferry/internal/config"
	"walferry/source"
)

// adminTimeout is how long a running walferry may take to answer; it answers
// without waiting for the pipeline.
const adminTimeout = 3 * time.Second

func newStatusCommand(p *program) *cobra.Command {
	var asJSON, healthz, readyz bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show position, lag and throughput",
		Long: `Ask a running walferry at admin.listen for its position, its lag in bytes and
seconds, the WAL that the server keeps for it, and its throughput. Where none
answers, show what the database knows of the slot.

--healthz and --readyz are probes for containers: they print nothing when all is
well, and exit with 0 or 1.`,
		Args: usage(both(noArgs, exclusive("json", "healthz", "readyz"))),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			switch {
			case healthz:
				return probe(cmd.Context(), c, "/healthz")
			case readyz:
				return probe(cmd.Context(), c, "/readyz")
			}
			return p.status(cmd.Context(), c, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&healthz, "healthz", false, "exit with 0 if the process serves, else 1")
	cmd.Flags().BoolVar(&readyz, "readyz", false, "exit with 0 if changes are being delivered, else 1")
	return cmd
}

// slotStatus is what is shown when no walferry answers.
type slotStatus struct {
	Pipeline  string `json:"pipeline"`
	Running   bool   `json:"running"`
	Slot      string `json:"slot"`
	Exists    bool   `json:"exists"`
	Active    bool   `json:"active"` // somebody holds it, perhaps on another machine
	PID       int32  `json:"active_pid,omitempty"`
	Confirmed string `json:"confirmed,omitempty"`
	WALStatus string `json:"wal_status,omitempty"`
	Retained  int64  `json:"retained_wal_bytes"`
}

func (p *program) status(ctx context.Context, c *config.Config, asJSON bool) error {
	s, err := askStatus(ctx, c)
	if err == nil {
		if asJSON {
			return p.printJSON(struct {
				Running bool `json:"running"`
				admin.Status
			}{true, *s})
		}
		return p.showStatus(s, time.Now())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	slot, serr := slotOf(ctx, c)
	if serr != nil {
		return fmt.Errorf("no walferry answers at admin.listen (%w), and the database cannot be asked: %w", err, serr)
	}
	if asJSON {
		return p.printJSON(slot)
	}
	return p.showSlot(slot, err)
}

func slotOf(ctx context.Context, c *config.Config) (*slotStatus, error) {
	cat, err := openCatalog(ctx, c)
	if err != nil {
		return nil, err
	}
	defer cat.Close()
	slot, err := cat.SlotInfo(ctx)
	if err != nil {
		return nil, within(exitSource, err)
	}
	s := &slotStatus{Pipeline: c.Name, Slot: c.Source.Slot.Name, Exists: slot.Exists, Active: slot.Active, PID: slot.ActivePID, WALStatus: slot.WALStatus, Retained: slot.RetainedBytes}
	if slot.Exists {
		s.Confirmed = slot.Confirmed.String()
	}
	return s, nil
}

func (p *program) showSlot(s *slotStatus, why error) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	lines := [][2]string{{"pipeline", s.Pipeline}, {"running", "no: " + why.Error()}}
	switch {
	case !s.Exists:
		lines = append(lines, [2]string{"slot", s.Slot + " does not exist"})
	case s.Active:
		lines = append(lines, [2]string{"slot", fmt.Sprintf("%s, held by process %d of the server", s.Slot, s.PID)})
	default:
		lines = append(lines, [2]string{"slot", s.Slot + ", held by nobody"})
	}
	if s.Exists {
		lines = append(lines, [2]string{"confirmed", s.Confirmed}, [2]string{"retained WAL", bytesText(s.Retained) + " (" + s.WALStatus + ")"})
	}
	return writeLines(w, lines)
}

func (p *program) showStatus(s *admin.Status, now time.Time) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	ready := "ready"
	if !s.Ready {
		ready = "not ready: " + s.Step
	}
	n := &s.Totals
	lines := [][2]string{
		{"pipeline", fmt.Sprintf("%s, walferry %s", s.Pipeline, s.Version)},
		{"state", fmt.Sprintf("%s, %s, up %s, %s", s.State, ready, age(now, &s.Started), counted(n.Sessions, "session"))},
		{"slot", fmt.Sprintf("%s, publication %s", s.Source.Slot, s.Source.Publication)},
		{"server", fmt.Sprintf("system %s, timeline %d, WAL end %s", s.Source.SystemID, s.Source.Timeline, s.Source.ServerEnd)},
		{"confirmed", s.Source.Confirmed},
		{"lag", fmt.Sprintf("%s, %.1f s", bytesText(s.Source.LagBytes), s.Source.LagSeconds)},
		{"retained WAL", bytesText(s.Source.RetainedBytes) + " (" + s.Source.WALStatus + ")"},
		{"buffers", fmt.Sprintf("%s read, %s in flight (%s)", bytesText(s.Source.BufferBytes), bytesText(int64(s.Kafka.InFlightBytes)), counted(int64(s.Kafka.InFlightRecords), "record"))},
		{"published", fmt.Sprintf("%s in %s, %s, %s", counted(sum(n.Changes), "change"), counted(n.Transactions, "transaction"), counted(n.Records, "record"), counted(n.Batches, "Kafka transaction"))},
		{"changes", byName(n.Changes)},
		{"throughput", fmt.Sprintf("%.0f changes/s, %s/s over the last minute", s.Kafka.ChangesPerSecond, bytesText(int64(s.Kafka.BytesPerSecond)))},
		{"position", s.Kafka.Position},
	}
	if w := s.Kafka.Witness; w != nil {
		lines = append(lines, [2]string{"witness", fmt.Sprintf("%s, transaction %d, committed %s ago", w.Commit, w.XID, age(now, &w.CommitTime))})
	}
	lines = append(lines, [2]string{"checkpoint", fmt.Sprintf("%s ago, heartbeat %s ago", age(now, s.Kafka.LastCheckpoint), age(now, s.Kafka.LastHeartbeat))})
	if n.Aborted+n.Uncertain > 0 {
		lines = append(lines, [2]string{"aborted", fmt.Sprintf("%s, %s of unknown outcome", counted(n.Aborted, "Kafka transaction"), counted(n.Uncertain, "commit"))})
	}
	if sum(n.Skipped) > 0 {
		lines = append(lines, [2]string{"skipped", byName(n.Skipped)})
	}
	if sum(n.Errors) > 0 {
		lines = append(lines, [2]string{"errors", byName(n.Errors)})
	}
	lines = append(lines, copyLines(s.Copies)...)
	if s.Error != "" {
		lines = append(lines, [2]string{"error", s.Error})
	}
	return writeLines(w, lines)
}

// copyLines say how far the copies of tables are: those under way one by one, the others by their number.
func copyLines(copies []admin.CopyStatus) (lines [][2]string) {
	tables, rows, waiting := map[string]int64{}, int64(0), int64(0)
	for i := range copies {
		c := &copies[i]
		switch {
		case copyOver(c.State):
			tables[c.State]++
			rows += c.Rows
		case c.State == "waiting" && c.Waits == "" && c.Turn > 0:
			waiting++
		default:
			lines = append(lines, [2]string{"backfill", c.Table + ": " + copyText(c)})
		}
	}
	if waiting > 0 {
		lines = append(lines, [2]string{"backfill", counted(waiting, "more table") + " to come"})
	}
	if tables["done"] > 0 {
		lines = append(lines, [2]string{"backfill", fmt.Sprintf("%s copied, %s", counted(tables["done"], "table"), counted(rows, "row"))})
	}
	if n := tables["skipped"] + tables["cancelled"]; n > 0 {
		lines = append(lines, [2]string{"backfill", fmt.Sprintf("%s not copied: %d skipped, %d cancelled; see walferry backfill status", counted(n, "table"), tables["skipped"], tables["cancelled"])})
	}
	return lines
}

func sum(m map[string]int64) (n int64) {
	for _, x := range m {
		n += x
	}
	return n
}

// byName lists what is not 0.
func byName(m map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func writeLines(w *tabwriter.Writer, lines [][2]string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%s\t%s\n", l[0], l[1]); err != nil {
			return err
		}
	}
	return w.Flush()
}

func age(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return "unknown"
	}
	return config.Duration(now.Sub(*t).Round(time.Second)).String()
}

// bytesText rounds to three digits in units of 1024.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.3g %ciB", f, units[i])
}

// probe asks path and is quiet when the answer is 200.
func probe(ctx context.Context, c *config.Config, path string) error {
	code, body, err := ask(ctx, c, path)
	if err != nil {
		return err
	}
	if code == http.StatusOK {
		return nil
	}
	var r admin.Readiness
	if err := json.Unmarshal(body, &r); err != nil || r.Step == "" {
		return fmt.Errorf("%s answers %d", path, code)
	}
	return fmt.Errorf("not ready: %s", r.Step)
}

// ask asks the running walferry of this configuration.
func ask(ctx context.Context, c *config.Config, path string) (int, []byte, error) {
	return adminRequest(ctx, c, http.MethodGet, path, nil, adminTimeout)
}

// adminRequest sends a request to the running walferry of this configuration; body is JSON, or nil.
func adminRequest(ctx context.Context, c *config.Config, method, path string, body []byte, timeout time.Duration) (int, []byte, error) {
	if c.Admin.Listen == "" {
		return 0, nil, errors.New("admin.listen is empty, so a running walferry cannot be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+config.Dialable(c.Admin.Listen)+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	// Never through a proxy: the address is this machine's.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		var ne *net.OpError
		if errors.As(err, &ne) {
			err = ne
		}
		return 0, nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<20)) // some hundred bytes for each table
	if cerr := res.Body.Close(); err == nil {
		err = cerr
	}
	return res.StatusCode, answer, err
}

// openCatalog makes the side connection of a command that needs no stream.
func openCatalog(ctx context.Context, c *config.Config) (*source.Catalog, error) {
	sc, err := c.ForSource()
	if err != nil {
		return nil, err
	}
	cat, err := source.OpenCatalog(ctx, sc)
	if err != nil {
		return nil, within(exitSource, err)
	}
	return cat, nil
}
