// Package admin is the HTTP listener of a running walferry:
//
//	/healthz  200 while the process serves; for a liveness probe
//	/readyz   200 while changes are being delivered, else 503 with the step that is stuck
//	/status   what walferry status shows, as JSON
//	/metrics  for Prometheus
//	/backfill/start, /pause, /resume, /cancel  what walferry backfill asks, by POST of JSON
//	/debug/pprof/  Go's profiles, only when configured
//
// But for /backfill it only reads. There is no authentication, which is why it listens on the loopback interface by default:
// whoever reaches it may have tables copied, under a condition that the server evaluates with walferry's role.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what the listener shows. Ready and Status are called from several
// goroutines at once and must answer without waiting for the pipeline, because
// they are asked most when it is stuck.
type Config struct {
	Ready   func() Readiness
	Status  func() Status
	Metrics *Metrics
	// Backfill does what is asked of the copies of tables, and returns when that is saved. nil is for a listener without a pipeline.
	Backfill func(ctx context.Context, do string, r BackfillRequest) (*BackfillReply, *Problem)
	Pprof    bool
	Log      *slog.Logger // nil is slog.Default()
}

// Readiness answers /readyz. Ready means delivering: a transaction, if need be a
// heartbeat's, was covered by a committed checkpoint within two heartbeat intervals,
// and sessions do not end again and again since then.
type Readiness struct {
	OK      bool           `json:"ready"`
	Step    string         `json:"step"` // what it is doing, or stuck in, such as "publish to Kafka"
	Details map[string]any `json:"details,omitempty"`
}

// Status answers /status. LSNs are in Postgres' form X/X; zero values are left out.
type Status struct {
	Pipeline string   `json:"pipeline"`
	Version  string   `json:"version"`
	State    string   `json:"state"` // one of States
	States   []string `json:"-"`
	// CopyStates are all states of a copy.
	CopyStates []string   `json:"-"`
	Active     bool       `json:"active"` // this instance holds the slot
	Ready      bool       `json:"ready"`
	Step       string     `json:"step"`
	Since      *time.Time `json:"since,omitempty"` // it has been at this step
	Started    time.Time  `json:"started"`
	Error      string     `json:"error,omitempty"` // the last one, with its remedy, while it lasts

	Source SourceStatus `json:"source"`
	Kafka  KafkaStatus  `json:"kafka"`
	Totals Totals       `json:"totals"`
	Copies []CopyStatus `json:"backfill,omitempty"`
}

// SourceStatus is the Postgres side.
type SourceStatus struct {
	Slot          string     `json:"slot"`
	Publication   string     `json:"publication"`
	SystemID      string     `json:"system_id,omitempty"`
	Timeline      int32      `json:"timeline,omitempty"`
	ServerVersion int        `json:"server_version,omitempty"` // as server_version_num
	ServerEnd     string     `json:"server_end,omitempty"`     // newest WAL end that was heard of
	Confirmed     string     `json:"confirmed,omitempty"`      // what the slot was told
	LagBytes      int64      `json:"lag_bytes"`                // between these two
	LagSeconds    float64    `json:"lag_seconds"`              // age of the oldest change that was received and is not in Kafka
	RetainedBytes int64      `json:"retained_wal_bytes"`
	WALStatus     string     `json:"wal_status,omitempty"` // as pg_replication_slots has it
	LastFrame     *time.Time `json:"last_frame,omitempty"` // when the walsender was last heard
	BufferBytes   int64      `json:"buffer_bytes"`

	serverEnd, confirmed uint64 // the same as numbers
}

// SetPositions sets the newest WAL end that was heard of and the confirmed position, and the lag between them.
func (s *SourceStatus) SetPositions(end, confirmed pglogrepl.LSN) {
	s.serverEnd, s.confirmed = uint64(end), uint64(confirmed)
	if end != 0 {
		s.ServerEnd = end.String()
	}
	if confirmed != 0 {
		s.Confirmed = confirmed.String()
		s.LagBytes = max(int64(end)-int64(confirmed), 0)
	}
}

// KafkaStatus is the Kafka side. Rates are over the last minute.
type KafkaStatus struct {
	Witness          *Witness   `json:"witness,omitempty"`
	Position         string     `json:"position,omitempty"` // of the newest change in the checkpoint: commit LSN, change LSN, number
	LastCheckpoint   *time.Time `json:"last_checkpoint,omitempty"`
	LastHeartbeat    *time.Time `json:"last_heartbeat,omitempty"` // when a heartbeat was last covered by a committed checkpoint
	ChangesPerSecond float64    `json:"changes_per_second"`
	BytesPerSecond   float64    `json:"bytes_per_second"` // of records, before compression
	InFlightRecords  int        `json:"in_flight_records"`
	InFlightBytes    int        `json:"in_flight_bytes"`
}

// CopyStatus is the copy of one table's rows. Rates are over the last seconds.
type CopyStatus struct {
	Table          string     `json:"table"`
	Generation     uint32     `json:"generation"`
	State          string     `json:"state"` // one of CopyStates
	Where          string     `json:"where,omitempty"`
	Rows           int64      `json:"rows"`
	Estimated      int64      `json:"estimated_rows,omitempty"`
	Bytes          int64      `json:"bytes"`
	Newer          int64      `json:"left_out_for_newer_ones"`
	Ranges         int        `json:"ranges,omitempty"`
	RangesDone     int        `json:"ranges_done,omitempty"`
	Workers        int        `json:"workers,omitempty"` // that read it now
	RowsPerSecond  float64    `json:"rows_per_second,omitempty"`
	BytesPerSecond float64    `json:"bytes_per_second,omitempty"`
	LeftSeconds    float64    `json:"left_seconds,omitempty"` // until its end, at this rate; 0 for unknown
	Waits          string     `json:"waits_for,omitempty"`
	Turn           int        `json:"turn,omitempty"`  // 0 for a table that is read now, n for the n-th that is to follow
	Order          string     `json:"order,omitempty"` // why it has this turn
	Asked          *time.Time `json:"asked,omitempty"`
	Started        *time.Time `json:"started,omitempty"`
	Finished       *time.Time `json:"finished,omitempty"`
}

// Witness is the newest source transaction that a committed checkpoint covers whole.
type Witness struct {
	Commit     string    `json:"commit_lsn"`
	End        string    `json:"end_lsn"`
	XID        uint32    `json:"xid"`
	CommitTime time.Time `json:"commit_time"`
}

// Totals are counted since the process was started. The keys of the maps are all there from the beginning.
type Totals struct {
	Changes       map[string]int64 `json:"changes"` // by operation: insert, update, delete, truncate
	Transactions  int64            `json:"transactions"`
	Split         int64            `json:"split_transactions"`
	Batches       int64            `json:"batches"` // Kafka transactions
	Records       int64            `json:"records"`
	RecordBytes   int64            `json:"record_bytes"`
	CopiedBytes   int64            `json:"copied_bytes"` // of rows that a copy has read, as the server sent them
	ReceivedBytes int64            `json:"received_bytes"`
	Skipped       map[string]int64 `json:"skipped"` // by reason: not_captured, truncate, contained
	Aborted       int64            `json:"aborted"`
	Uncertain     int64            `json:"uncertain_commits"`
	Heartbeats    int64            `json:"heartbeats"`
	Sessions      int64            `json:"sessions"`
	Reconnects    map[string]int64 `json:"reconnects"`   // by the server whose fault it was
	Incompatible  map[string]int64 `json:"incompatible"` // schemas that the registry refused as incompatible, by what was done: force, new-topic
	Errors        map[string]int64 `json:"errors"`       // by class
}

// Server is a listener with its handlers.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen binds addr, so that a busy port is an error at start and not later.
// The caller calls Serve, or Close.
func Listen(ctx context.Context, addr string, c Config) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the admin API (admin.listen): %w", err)
	}
	return &Server{listener: l, http: &http.Server{
		Handler:           Handler(c),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      BackfillTimeout + 10*time.Second, // a CPU profile takes 30 s by default
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger(c).Handler(), slog.LevelDebug),
	}}, nil
}

// Addr is the bound address, of interest when the port was 0.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers requests until ctx ends, then waits up to a second for those that
// are being answered, and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(s.listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the admin API: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.http.Shutdown(end); err != nil {
		// Somebody is still reading; the process is about to end, so cut them off.
		if err := s.http.Close(); err != nil {
			return fmt.Errorf("close the admin API: %w", err)
		}
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin API: %w", err)
	}
	return nil
}

// Close ends a server that was not served.
func (s *Server) Close() error { return s.listener.Close() }

// Handler is the API without a listener.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(c, w, http.StatusOK, map[string]any{"healthy": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := c.Ready()
		code := http.StatusOK
		if !r.OK {
			code = http.StatusServiceUnavailable
		}
		answer(c, w, code, r)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		answer(c, w, http.StatusOK, c.Status())
	})
	if c.Backfill != nil {
		for _, do := range []string{"start", "pause", "resume", "cancel"} {
			mux.HandleFunc("POST /backfill/"+do, backfill(c, do))
		}
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger(c).Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		write(c, w, []byte("walferry\n\n/healthz\n/readyz\n/status\n/metrics\n"))
	})
	if c.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(c Config, w http.ResponseWriter, code int, body any) {
	b, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error": "the answer cannot be written as JSON"}`)
		logger(c).Error("answer the admin API", "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	write(c, w, append(b, '\n'))
}

// write ignores nothing but tells only those who debug: a client that goes away
// before it has read its answer is no event for an operator.
func write(c Config, w http.ResponseWriter, b []byte) {
	if _, err := w.Write(b); err != nil {
		logger(c).Debug("answer the admin API", "error", err)
	}
}

func logger(c Config) *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.Default()
}
