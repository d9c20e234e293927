package admin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the pipeline's numbers. The four durable steps have their own verbs
// here too: publish, commit, save, confirm. All methods and fields may be used from
// any goroutine; none of them allocates once a label has been seen.
type Metrics struct {
	registry *prometheus.Registry

	Transactions      prometheus.Counter // source transactions published whole
	SplitTransactions prometheus.Counter // source transactions that needed more than one Kafka transaction
	Batches           prometheus.Counter // Kafka transactions committed
	Records           prometheus.Counter // Kafka records committed, tombstones included, checkpoints not
	RecordBytes       prometheus.Counter // bytes of those records, before compression
	WALBytes          prometheus.Counter // bytes of pgoutput received
	Aborts            prometheus.Counter // Kafka transactions aborted
	Uncertain         prometheus.Counter // commits that had to be settled by reading
	Heartbeats        prometheus.Counter // heartbeats written to the source
	Skipped           prometheus.Counter // truncates skipped by schema.truncate: skip
	Reconnects        *prometheus.CounterVec
	changes           *prometheus.CounterVec
	errors            *prometheus.CounterVec

	LagBytes        prometheus.Gauge // server's WAL end less the confirmed position
	RetainedBytes   prometheus.Gauge // WAL that the slot keeps on the server
	BufferBytes     prometheus.Gauge // frames received and not yet encoded
	InFlightBytes   prometheus.Gauge // batch being published
	InFlightRecords prometheus.Gauge
	Active          prometheus.Gauge // 1 while this instance holds the slot
	lagSeconds      prometheus.Gauge
	lastCheckpoint  prometheus.Gauge

	publish prometheus.Histogram
	latency prometheus.Histogram
}

// NewMetrics makes the metrics with a registry of their own; version and pipeline
// become labels of walferry_info.
func NewMetrics(version, pipeline string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "walferry_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "walferry_" + name, Help: help}, []string{label})
		m.registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "walferry_" + name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	histogram := func(name, help string) prometheus.Histogram {
		// 1 ms to 65 s: a small transaction takes 2 to 3 ms, publish_timeout ends at 45 s.
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "walferry_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 17)})
		m.registry.MustRegister(h)
		return h
	}

	m.changes = counters("changes_total", "Row changes and truncates committed to Kafka, by operation.", "op")
	m.Transactions = counter("transactions_total", "Source transactions committed to Kafka whole.")
	m.SplitTransactions = counter("split_transactions_total", "Source transactions that needed more than one Kafka transaction.")
	m.Batches = counter("batches_total", "Kafka transactions committed.")
	m.Records = counter("records_total", "Event records committed to Kafka, tombstones included.")
	m.RecordBytes = counter("record_bytes_total", "Bytes of committed event records, before compression.")
	m.WALBytes = counter("received_bytes_total", "Bytes of pgoutput received from the server.")
	m.Aborts = counter("aborts_total", "Kafka transactions aborted; nothing of them is visible to a read_committed consumer.")
	m.Uncertain = counter("uncertain_commits_total", "Commits without an answer, settled by reading the checkpoint.")
	m.Heartbeats = counter("heartbeats_total", "Heartbeats written to the source database.")
	m.Skipped = counter("skipped_truncates_total", "Truncates that were not published, by schema.truncate: skip.")
	m.Reconnects = counters("reconnects_total", "Connections made again, by dependency.", "to")
	m.errors = counters("errors_total", "Errors, by class: retry, restart, fenced, fatal, value, too_large, schema.", "class")

	m.LagBytes = gauge("lag_bytes", "Bytes from the confirmed position to the server's WAL end.")
	m.lagSeconds = gauge("lag_seconds", "Age of the oldest change not yet committed to Kafka; 0 when there is none.")
	m.RetainedBytes = gauge("retained_wal_bytes", "WAL that the server keeps for the slot.")
	m.BufferBytes = gauge("buffer_bytes", "Frames received and not yet encoded.")
	m.InFlightBytes = gauge("in_flight_bytes", "Bytes of the batch being published.")
	m.InFlightRecords = gauge("in_flight_records", "Records of the batch being published.")
	m.Active = gauge("active", "1 while this instance holds the slot, 0 as a standby.")
	m.lastCheckpoint = gauge("last_checkpoint_timestamp_seconds", "Unix time of the last committed checkpoint.")

	m.publish = histogram("publish_seconds", "Time from the first request of a Kafka transaction to its commit.")
	m.latency = histogram("latency_seconds", "Time from the commit of a source transaction to the commit of its Kafka transaction, by the clocks of both machines; observed for the last transaction of each batch.")

	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "walferry_info", Help: "1, with the version and the pipeline's name.", ConstLabels: prometheus.Labels{"version": version, "pipeline": pipeline}})
	info.Set(1)
	m.registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// A series that appears with its first event hides that event from rate(), so
	// the known ones begin at 0.
	for _, op := range []string{"insert", "update", "delete", "truncate"} {
		m.changes.WithLabelValues(op)
	}
	for _, to := range []string{"source", "kafka"} {
		m.Reconnects.WithLabelValues(to)
	}
	for _, class := range []string{"retry", "restart", "fenced", "fatal", "value", "too_large", "schema"} {
		m.errors.WithLabelValues(class)
	}
	return m
}

// Changes counts n committed changes of an operation: insert, update, delete or truncate.
func (m *Metrics) Changes(op string, n int) { m.changes.WithLabelValues(op).Add(float64(n)) }

// Error counts an error of a class: retry, restart, fenced, fatal, value, too_large or schema.
func (m *Metrics) Error(class string) { m.errors.WithLabelValues(class).Inc() }

// Published observes the duration of one committed Kafka transaction.
func (m *Metrics) Published(d time.Duration) { m.publish.Observe(d.Seconds()) }

// Latency observes the time from a source commit to its Kafka commit. Clocks that
// disagree can make it negative, which counts as 0.
func (m *Metrics) Latency(d time.Duration) { m.latency.Observe(max(d, 0).Seconds()) }

// Lag sets the age of the oldest change that is not committed.
func (m *Metrics) Lag(d time.Duration) { m.lagSeconds.Set(max(d, 0).Seconds()) }

// Saved sets the time of the last committed checkpoint.
func (m *Metrics) Saved(t time.Time) { m.lastCheckpoint.Set(float64(t.UnixMilli()) / 1000) }
