package admin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are what /metrics shows: the numbers of a Status, read when they are asked for, so that both paths say the same, and
// the histograms, which are observed with each Kafka transaction. The four durable steps have their own verbs here too:
// publish, commit, save, confirm. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	batchRecords, batchBytes, publish, latency prometheus.Histogram
}

// NewMetrics makes the metrics with a registry of their own; version and pipeline become labels of walferry_info. Status is
// called at every request.
func NewMetrics(version, pipeline string, status func() Status) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "walferry_" + name, Help: help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	// 1 ms to 65 s: a small transaction takes 2 to 3 ms, publish_timeout ends at 45 s.
	times := prometheus.ExponentialBuckets(0.001, 2, 17)
	m.batchRecords = histogram("batch_records", "Event records of a committed Kafka transaction.", prometheus.ExponentialBuckets(1, 4, 10))
	m.batchBytes = histogram("batch_bytes", "Bytes of the event records of a committed Kafka transaction, before compression.", prometheus.ExponentialBuckets(256, 4, 10))
	m.publish = histogram("publish_seconds", "Time from sealing a batch to the commit of its Kafka transaction.", times)
	m.latency = histogram("latency_seconds", "Time from the commit of a source transaction to the commit of its Kafka transaction, by the clocks of both machines; observed for the last transaction of each batch.", times)

	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "walferry_info", Help: "1, with the version and the pipeline's name.", ConstLabels: prometheus.Labels{"version": version, "pipeline": pipeline}})
	info.Set(1)
	m.registry.MustRegister(info, &collector{status: status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Committed observes one committed Kafka transaction: its event records, their bytes before compression, and the time from
// sealing to commit.
func (m *Metrics) Committed(records, bytes int, took time.Duration) {
	m.batchRecords.Observe(float64(records))
	m.batchBytes.Observe(float64(bytes))
	m.publish.Observe(took.Seconds())
}

// Latency observes the time from a source commit to its Kafka commit. Clocks that
// disagree can make it negative, which counts as 0.
func (m *Metrics) Latency(d time.Duration) { m.latency.Observe(max(d, 0).Seconds()) }

// collector shows a Status as metrics.
type collector struct{ status func() Status }

// series is one metric: its value or, with a label, one for each of the label's values. A map of the Status has all known
// values from the beginning: a series that appears with its first event hides that event from rate().
type series struct {
	kind  prometheus.ValueType
	desc  *prometheus.Desc
	value func(*Status) float64
	each  func(*Status) map[string]float64
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("walferry_"+name, help, labels, nil)
}

func counter(name, help string, value func(*Status) int64) series {
	return series{prometheus.CounterValue, describe(name, help), func(s *Status) float64 { return float64(value(s)) }, nil}
}

func counters(name, help, label string, each func(*Status) map[string]int64) series {
	return series{prometheus.CounterValue, describe(name, help, label), nil, func(s *Status) map[string]float64 {
		out := map[string]float64{}
		for k, v := range each(s) {
			out[k] = float64(v)
		}
		return out
	}}
}

func gauge(name, help string, value func(*Status) float64) series {
	return series{prometheus.GaugeValue, describe(name, help), value, nil}
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unix is the time in seconds since 1970, 0 for none.
func unix(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

// all is every metric that comes out of a Status.
var all = []series{
	counters("changes_total", "Row changes and truncates committed to Kafka, by operation.", "op", func(s *Status) map[string]int64 { return s.Totals.Changes }),
	counter("transactions_total", "Source transactions committed to Kafka whole, heartbeats included.", func(s *Status) int64 { return s.Totals.Transactions }),
	counter("split_transactions_total", "Source transactions that needed more than one Kafka transaction.", func(s *Status) int64 { return s.Totals.Split }),
	counter("batches_total", "Kafka transactions committed.", func(s *Status) int64 { return s.Totals.Batches }),
	counter("records_total", "Event records committed to Kafka, tombstones included.", func(s *Status) int64 { return s.Totals.Records }),
	counter("record_bytes_total", "Bytes of committed event records, before compression.", func(s *Status) int64 { return s.Totals.RecordBytes }),
	counter("received_bytes_total", "Bytes of pgoutput received from the server.", func(s *Status) int64 { return s.Totals.ReceivedBytes }),
	counters("skipped_total", "Changes that were received and not published: of a table that is not captured, or truncates by schema.truncate: skip.", "reason", func(s *Status) map[string]int64 { return s.Totals.Skipped }),
	counter("aborts_total", "Kafka transactions aborted; nothing of them is visible to a read_committed consumer.", func(s *Status) int64 { return s.Totals.Aborted }),
	counter("uncertain_commits_total", "Commits without an answer, settled by reading the checkpoint.", func(s *Status) int64 { return s.Totals.Uncertain }),
	counter("heartbeats_total", "Heartbeats written to the source database.", func(s *Status) int64 { return s.Totals.Heartbeats }),
	counter("sessions_total", "Times that this instance took the slot.", func(s *Status) int64 { return s.Totals.Sessions }),
	counters("reconnects_total", "Sessions begun again, by the server whose fault it was.", "to", func(s *Status) map[string]int64 { return s.Totals.Reconnects }),
	counters("incompatible_schemas_total", "Schemas that the registry refused as incompatible and that are used all the same, by how: force, new-topic. See schema.on_incompatible.", "how", func(s *Status) map[string]int64 { return s.Totals.Incompatible }),
	counters("errors_total", "Errors, by class: retry, restart, fenced, fatal, value, too_large, schema.", "class", func(s *Status) map[string]int64 { return s.Totals.Errors }),

	counter("backfill_rows_total", "Rows that copies of tables have read, committed to Kafka.", func(s *Status) int64 { return s.Totals.Changes["read"] }),
	counter("backfill_bytes_total", "Bytes of rows that copies of tables have read, as the server sent them, of chunks committed to Kafka.", func(s *Status) int64 { return s.Totals.CopiedBytes }),
	{prometheus.GaugeValue, describe("backfill_tables", "Captured tables, by the state of the copy of their rows.", "state"), nil, func(s *Status) map[string]float64 {
		out := map[string]float64{}
		for _, state := range s.CopyStates {
			out[state] = 0
		}
		for i := range s.Copies {
			out[s.Copies[i].State]++
		}
		return out
	}},

	gauge("ready", "1 while changes are delivered: what /readyz answers.", func(s *Status) float64 { return yes(s.Ready) }),
	gauge("active", "1 while this instance holds the slot, 0 as a standby.", func(s *Status) float64 { return yes(s.Active) }),
	{prometheus.GaugeValue, describe("state", "1 for the state that the instance is in, 0 for the others.", "state"), nil, func(s *Status) map[string]float64 {
		out := map[string]float64{}
		for _, state := range s.States {
			out[state] = yes(state == s.State)
		}
		return out
	}},
	gauge("server_end_position_bytes", "Newest end of the server's WAL that was heard of, as a number: 16/B374D848 is 0x16B374D848.", func(s *Status) float64 { return float64(s.Source.serverEnd) }),
	gauge("confirmed_position_bytes", "Position that was confirmed to the slot, as a number.", func(s *Status) float64 { return float64(s.Source.confirmed) }),
	gauge("lag_bytes", "Bytes from the confirmed position to the server's WAL end.", func(s *Status) float64 { return float64(s.Source.LagBytes) }),
	gauge("lag_seconds", "Age of the oldest change that was received and is not committed to Kafka, 0 when there is none; while not ready, at least the time since the last checkpoint.", func(s *Status) float64 { return s.Source.LagSeconds }),
	gauge("retained_wal_bytes", "WAL that the server keeps for the slot.", func(s *Status) float64 { return float64(s.Source.RetainedBytes) }),
	gauge("slot_unreserved", "1 while the slot keeps more WAL than max_slot_wal_keep_size allows: the server's next checkpoint may remove it, and the slot is lost.", func(s *Status) float64 {
		return yes(s.Source.WALStatus == "unreserved" || s.Source.WALStatus == "lost")
	}),
	gauge("buffer_bytes", "Memory of source.buffer_bytes in use: the buffer that is read into, and frames not yet encoded.", func(s *Status) float64 { return float64(s.Source.BufferBytes) }),
	gauge("in_flight_bytes", "Bytes of the batch being published.", func(s *Status) float64 { return float64(s.Kafka.InFlightBytes) }),
	gauge("in_flight_records", "Records of the batch being published.", func(s *Status) float64 { return float64(s.Kafka.InFlightRecords) }),
	gauge("last_checkpoint_timestamp_seconds", "Unix time of the last committed checkpoint, 0 before the first.", func(s *Status) float64 { return unix(s.Kafka.LastCheckpoint) }),
	gauge("last_heartbeat_timestamp_seconds", "Unix time at which a heartbeat was last covered by a committed checkpoint, 0 before the first. A busy database needs none.", func(s *Status) float64 { return unix(s.Kafka.LastHeartbeat) }),
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for i := range all {
		out <- all[i].desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	for i := range all {
		m := &all[i]
		if m.value != nil {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s))
			continue
		}
		for label, v := range m.each(&s) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, label)
		}
	}
}
