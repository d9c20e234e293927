package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"walferry/checkpoint"
	"walferry/internal/admin"
	"walferry/internal/config"
	"walferry/internal/kafka"
	"walferry/internal/pipeline"
	"walferry/schema"
)

func newRunCommand(p *program) *cobra.Command {
	var afterUpgrade bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Stream the captured tables to Kafka until stopped",
		Long: `Streams every committed change of the captured tables to Kafka, exactly once for a
read_committed consumer. The first start makes the publication and the slot;
every later one goes on where the checkpoint in Kafka says.

SIGTERM publishes what was read up to the end of the open transaction, confirms it
to the slot and exits with 0, within drain_timeout. A second signal exits at
once; nothing is lost by it.

A server with another system identifier is refused: it is another database. With
--after-upgrade it is accepted where walferry drain was the last thing that
happened to this pipeline, since that is what pg_upgrade makes of a server.`,
		Args: usage(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			_, err = p.runPipeline(cmd.Context(), c, runOptions{afterUpgrade: afterUpgrade})
			return err
		},
	}
	cmd.Flags().BoolVar(&afterUpgrade, "after-upgrade", false, "accept the system identifier of an upgraded server, once and only after walferry drain")
	return cmd
}

const (
	// memoryLimit is what the garbage collector keeps to where it can: buffers of the stream and two batches stay far below it,
	// so it binds only when rows are very large.
	memoryLimit = 96 << 20
	// collectAt is how much garbage, in percent of what is in use, starts a collection. What is in use are the buffers,
	// 8 MiB of frames and two batches of 8 MiB in up to twice as much; the way of a change makes no garbage, so halving
	// Go's usual 100 takes a third off the peak and costs next to nothing.
	collectAt = 50
)

// tuneMemory sets what the environment does not.
func tuneMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
}

// startTimeout is how long servers may be out of reach at the very beginning before run gives up with an exit code. Once
// something was delivered it goes on trying for ever.
var startTimeout = time.Minute

// watchInterval is how often a running walferry looks at the publication and its tables: a table that comes to match a pattern
// is captured that much later at most.
const watchInterval = 30 * time.Second

// runOptions are what a command line adds to the configuration.
type runOptions struct{ afterUpgrade, drain bool }

// runPipeline is the life of run and drain: everything is built first, then the listeners and the pipeline run until one of
// them ends. The pipeline is returned for what it says of itself afterwards.
func (p *program) runPipeline(ctx context.Context, c *config.Config, o runOptions) (*pipeline.Pipeline, error) {
	log := p.newLogger(c)
	tuneMemory()
	pc, err := pipelineConfig(c)
	if err != nil {
		return nil, err
	}
	pc.AfterUpgrade, pc.Drain = o.afterUpgrade, o.drain
	kc, err := c.ForKafka()
	if err != nil {
		return nil, err
	}
	client, err := kafka.New(kc)
	if err != nil {
		return nil, within(exitKafka, err)
	}
	defer client.Close()

	// The listeners outlive the pipeline's drain: they end when this function does.
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan error, 3)
	running := 0
	serve := func(f func(context.Context) error) {
		running++
		go func() { ended <- f(serving) }()
	}
	defer func() {
		stop(nil)
		for range running {
			if err := <-ended; err != nil && serving.Err() == nil {
				log.Warn("listener", "error", err)
			}
		}
	}()

	registry, serveRegistry, err := p.registry(serving, c, client, log)
	if err != nil {
		return nil, err
	}
	if serveRegistry != nil {
		serve(serveRegistry)
	}
	a := &statusOf{config: c, started: time.Now()}
	metrics := admin.NewMetrics(version, c.Name, a.status)
	pl := pipeline.New(pc, client, registry, &observer{metrics: metrics}, log)
	a.pipeline = pl
	if c.Admin.Listen != "" {
		s, err := admin.Listen(serving, c.Admin.Listen, admin.Config{
			Ready: a.ready, Status: a.status, Metrics: metrics, Backfill: a.askBackfill, Pprof: c.Admin.Pprof, Log: log,
		})
		if err != nil {
			return nil, &codedError{exitConfig, fmt.Errorf("admin.listen: %w", err)}
		}
		log.Info("admin", "listen", s.Addr().String())
		serve(s.Serve)
	}

	done := make(chan error, 1)
	pipelineCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	go func() { done <- pl.Run(pipelineCtx) }()
	select {
	case err = <-done:
	case err = <-ended:
		running--
		if err == nil {
			err = errors.New("a listener ended")
		}
		cancel(err)
		if perr := <-done; !errors.Is(perr, err) {
			err = errors.Join(err, perr)
		}
	case <-ctx.Done():
		log.Info("stopping: what was read is published and confirmed", "within", c.DrainTimeout.Std())
		pl.Stop()
		select {
		case err = <-done:
		case <-time.After(c.DrainTimeout.Std() + 2*time.Second):
			cancel(errInterrupted)
			err = <-done
			log.Warn("not drained in time; the next start settles what was in flight", "reason", err)
		}
	}
	return pl, within(faultCode(err), err)
}

// faultCode is the exit code of a pipeline's end for which a server is to blame.
func faultCode(err error) int {
	switch pipeline.Dependency(err) {
	case "kafka":
		return exitKafka
	case "registry":
		return exitRegistry
	}
	return exitError
}

// pipelineConfig turns the file's sections into the pipeline's configuration.
func pipelineConfig(c *config.Config) (pipeline.Config, error) {
	src, err := c.ForSource()
	if err != nil {
		return pipeline.Config{}, err
	}
	instance := make([]byte, 8)
	if _, err := rand.Read(instance); err != nil {
		return pipeline.Config{}, fmt.Errorf("instance id: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // only for people, in the session record
	}
	return pipeline.Config{
		Name: c.Name, Source: src, Sink: c.ForSink(), TopicSpec: c.TopicSpec, SharesTopic: c.SharesTopic, OwnTopic: c.OwnTopic,
		SchemaOptions: func(s, t, db, systemID string) schema.Options {
			return c.SchemaOptions(s, t, db, systemID, version)
		},
		Envelope: c.Schema.Envelope, Truncate: c.Schema.Truncate, OnIncompatible: c.OnIncompatible, Compatibility: c.Compatibility, Changes: c.ChangesSpec(),
		Copy: pipeline.Copy{
			Wanted: c.Backfilled, Priority: c.BackfillPriority, Workers: c.Backfill.Workers, BufferBytes: int(c.Backfill.BufferBytes),
			ChunkTime: c.Backfill.ChunkTime.Std(), StatementTimeout: c.Backfill.StatementTimeout.Std(),
			Limits: pipeline.CopyLimits{
				RowsPerSecond: c.Backfill.RowsPerSecond, BytesPerSecond: int(c.Backfill.BytesPerSecond), MaxLag: int64(c.Backfill.MaxLag),
				MaxReplicaLag: int64(c.Backfill.MaxReplicaLag), MaxSessions: c.Backfill.MaxSessions,
			},
		},
		Checkpoint: c.CheckpointSpec(),
		Watch:      watchInterval, StallLimit: c.Source.StallLimit.Std(), DrainTimeout: c.DrainTimeout.Std(), Standby: c.Standby, StartTimeout: startTimeout,
		Session: checkpoint.Session{
			Instance: hex.EncodeToString(instance), Host: host, PID: os.Getpid(), Program: version,
		},
	}, nil
}

// observer fills the histograms of /metrics.
type observer struct{ metrics *admin.Metrics }

func (o *observer) Committed(c pipeline.Commit) {
	o.metrics.Committed(c.Records, c.Bytes, c.Took)
	if !c.LastCommit.IsZero() {
		o.metrics.Latency(time.Since(c.LastCommit))
	}
}

// statusOf answers the admin listener from what the pipeline says of itself.
type statusOf struct {
	config   *config.Config
	pipeline *pipeline.Pipeline
	started  time.Time
}

func (s *statusOf) ready() admin.Readiness {
	h := s.pipeline.Health()
	d := map[string]any{"state": h.State}
	if !h.Since.IsZero() {
		d["since"] = h.Since.UTC().Format(time.RFC3339Nano)
	}
	if !h.Covered.IsZero() {
		d["last_checkpoint"] = h.Covered.UTC().Format(time.RFC3339Nano)
	}
	if h.Err != nil {
		d["error"] = h.Err.Error()
	}
	return admin.Readiness{OK: h.Ready, Step: h.Step, Details: d}
}

func (s *statusOf) status() admin.Status {
	h := s.pipeline.Health()
	out := admin.Status{
		Pipeline: s.config.Name, Version: version, State: string(h.State), Active: h.Holds, Ready: h.Ready, Step: h.Step,
		Since: moment(h.Since), Started: s.started,
		Source: admin.SourceStatus{
			Slot: s.config.Source.Slot.Name, Publication: s.config.Source.Publication.Name,
			SystemID: h.System.ID, Timeline: h.System.Timeline, ServerVersion: h.System.Version,
			LagSeconds: h.Lag.Seconds(), RetainedBytes: h.Slot.RetainedBytes, WALStatus: h.Slot.WALStatus,
			LastFrame: moment(h.LastFrame), BufferBytes: h.Buffered,
		},
		Kafka: admin.KafkaStatus{
			LastCheckpoint: moment(h.Covered), LastHeartbeat: moment(h.Heartbeat),
			ChangesPerSecond: h.ChangesPerSecond, BytesPerSecond: h.BytesPerSecond,
			InFlightRecords: h.InFlight.Records, InFlightBytes: h.InFlight.Bytes,
		},
		Totals: totals(&h.Totals),
	}
	for i := range h.Copies {
		out.Copies = append(out.Copies, copyStatus(&h.Copies[i]))
	}
	for _, state := range pipeline.CopyStates() {
		out.CopyStates = append(out.CopyStates, string(state))
	}
	for _, state := range pipeline.States() {
		out.States = append(out.States, string(state))
	}
	out.Source.SetPositions(h.ServerEnd, h.Confirmed)
	if w := h.Witness; w.Commit != 0 {
		out.Kafka.Witness = &admin.Witness{Commit: w.Commit.String(), End: w.End.String(), XID: w.XID, CommitTime: w.CommitTime}
		out.Kafka.Position = h.Position.String()
	}
	if h.Err != nil {
		out.Error = h.Err.Error()
		if hint := hint(h.Err); hint != "" {
			out.Error += "; " + hint
		}
	}
	return out
}

// moment is nil for the zero time, which JSON then leaves out.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func totals(t *pipeline.Totals) admin.Totals {
	out := admin.Totals{
		Changes: map[string]int64{}, Transactions: t.Transactions, Split: t.Split, Batches: t.Batches, Records: t.Records,
		RecordBytes: t.RecordBytes, CopiedBytes: t.CopiedBytes, ReceivedBytes: t.Received, Aborted: t.Aborted, Uncertain: t.Uncertain,
		Skipped:    map[string]int64{"not_captured": t.Uncaptured, "truncate": t.Truncates, "contained": t.Contained},
		Heartbeats: t.Heartbeats, Sessions: t.Sessions, Reconnects: map[string]int64{}, Errors: map[string]int64{}, Incompatible: t.Incompatible,
	}
	for op, n := range t.Changes {
		out.Changes[pipeline.Op(op).String()] = n
	}
	for _, to := range pipeline.Dependencies() {
		out.Reconnects[to] = t.Reconnects[to]
	}
	for _, class := range pipeline.Classes() {
		out.Errors[string(class)] = t.Errors[class]
	}
	return out
}
