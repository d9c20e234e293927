package schema

import (
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Names of the headers of records, in UTF-8 text. docs/events.md is checked against HeaderNames.
const (
	HeaderID          = "id"                // unique id of the record
	HeaderIdentity    = "identity"          // replica identity of the table: default, index, full, nothing
	HeaderSplit       = "split"             // part of a source transaction that was split over Kafka transactions
	HeaderRefetched   = "refetched"         // fields that were not sent and hold the value of now, as a JSON array of strings
	HeaderNewKey      = "__debezium.newkey" // on the delete of a changed key: the new one, as a record's key
	HeaderOldKey      = "__debezium.oldkey" // on the create after it: the old one
	HeaderOp          = "op"                // row envelope: c, u, d, r, t
	HeaderCommitLSN   = "commit_lsn"        // row envelope: X/X
	HeaderOrdinal     = "ordinal"           // row envelope: number of the row in its transaction
	HeaderXID         = "xid"               // row envelope: transaction id
	HeaderTSMicros    = "ts_us"             // row envelope: commit time, microseconds since 1970 UTC
	HeaderSchema      = "schema"            // row envelope: the table's schema
	HeaderTable       = "table"             // row envelope: the table's name
	HeaderUnavailable = "unavailable"       // row envelope: fields that were not sent, as a JSON array of strings
)

// HeaderNames are all headers.
var HeaderNames = []string{
	HeaderID, HeaderIdentity, HeaderSplit, HeaderRefetched, HeaderNewKey, HeaderOldKey, HeaderOp, HeaderCommitLSN, HeaderOrdinal, HeaderXID, HeaderTSMicros,
	HeaderSchema, HeaderTable, HeaderUnavailable,
}

// Meta is what an event says beside the row.
type Meta struct {
	// XID of the source transaction; zero for a row that the first copy read, which is in no transaction.
	XID uint32
	// Commit is the transaction's commit LSN, Change the LSN of the change's own WAL record.
	Commit, Change pglogrepl.LSN
	// Ordinal is the number of the row or truncate in its transaction, TotalOrder that of the event in it, and
	// CollectionOrder that of the event among those of its table in it; all from 1.
	Ordinal, TotalOrder, CollectionOrder int64
	CommitTime                           time.Time
	// Now is when the event was made.
	Now time.Time
	// Snapshot is Debezium's marker: true, first, last, …, or empty for a change of the stream ("false").
	Snapshot string
	// Sequence is the commit LSN of the transaction published before, zero if there is none, and this change's LSN.
	Sequence [2]pglogrepl.LSN
}

// recordHead opens a record schema under its full name.
func recordHead(fullName, doc string) string {
	dot := strings.LastIndexByte(fullName, '.')
	s := `{"type":"record","name":` + quote(fullName[dot+1:])
	if dot > 0 {
		s += `,"namespace":` + quote(fullName[:dot])
	}
	if doc != "" {
		s += `,"doc":` + quote(doc)
	}
	return s
}

const (
	sourceName = "io.debezium.connector.postgresql.Source"
	// avroSource has Debezium's fields under Debezium's names and types, then three of ours.
	avroSource = `{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":[` +
		`{"name":"version","type":"string"},` +
		`{"name":"connector","type":"string"},` +
		`{"name":"name","type":"string"},` +
		`{"name":"ts_ms","type":"long"},` +
		`{"name":"ts_us","type":["null","long"],"default":null},` +
		`{"name":"snapshot","type":[{"type":"string"` + connectVersion +
		`,"connect.parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"}` +
		`,"connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},` +
		`{"name":"db","type":"string"},` +
		`{"name":"sequence","type":["null","string"],"default":null},` +
		`{"name":"schema","type":"string"},` +
		`{"name":"table","type":"string"},` +
		`{"name":"txId","type":["null","long"],"default":null},` +
		`{"name":"lsn","type":["null","long"],"default":null},` +
		`{"name":"commit_lsn","type":["null","long"],"default":null},` +
		`{"name":"ordinal","type":["null","long"],"default":null},` +
		`{"name":"system_id","type":["null","string"],"default":null}` +
		`]` + connectVersion + `,"connect.name":"` + sourceName + `"}`
	avroTransaction = `{"type":"record","name":"block","namespace":"event","fields":[` +
		`{"name":"id","type":"string"},` +
		`{"name":"total_order","type":"long"},` +
		`{"name":"data_collection_order","type":"long"}` +
		`]` + connectVersion + `,"connect.name":"event.block"}`
)

// envelope is the Avro schema of the Debezium envelope around a value record. namespace is the sanitised topic.
func envelope(namespace, value string) string {
	return recordHead(namespace+envelopeRecord, "") + `,"fields":[` +
		`{"name":"before","type":["null",` + value + `],"default":null},` +
		`{"name":"after","type":["null",` + quote(namespace+rowRecord) + `],"default":null},` +
		`{"name":"source","type":` + avroSource + `},` +
		`{"name":"op","type":"string"},` +
		`{"name":"ts_ms","type":["null","long"],"default":null},` +
		`{"name":"ts_us","type":["null","long"],"default":null},` +
		`{"name":"transaction","type":["null",` + avroTransaction + `],"default":null},` +
		`{"name":"unavailable","type":["null",{"type":"array","items":"string"}],"default":null}` +
		`],"connect.name":` + quote(namespace+envelopeRecord) + `}`
}

// envelopePlan holds what of source is the same for every event of a relation, already in Avro.
type envelopePlan struct {
	head   []byte // version, connector, name
	db     []byte
	table  []byte // schema, table
	system []byte // system_id with its union branch

	lastRead Meta   // of the newest row of a first copy
	lastTail []byte // source and what follows it of that
}

func newEnvelopePlan(t *Table) envelopePlan {
	var p envelopePlan
	p.head = appendString(p.head, t.opt.Version)
	p.head = appendString(p.head, "postgresql")
	p.head = appendString(p.head, t.opt.Name)
	p.db = appendString(p.db, t.opt.DB)
	p.table = appendString(p.table, t.Relation.Schema)
	p.table = appendString(p.table, t.Relation.Name)
	p.system = appendString(append(p.system, branchSecond), t.opt.SystemID)
	return p
}

// Union branches as Avro writes their index.
const (
	branchFirst  = 0 // zigzag 0
	branchSecond = 2 // zigzag 1
)

func (p *envelopePlan) appendSource(dst []byte, m *Meta) []byte {
	dst = append(dst, p.head...)
	dst = appendLong(dst, m.CommitTime.UnixMilli())
	dst = append(dst, branchSecond)
	dst = appendLong(dst, m.CommitTime.UnixMicro())
	dst = append(dst, branchFirst)
	if m.Snapshot == "" {
		dst = appendString(dst, "false")
	} else {
		dst = appendString(dst, m.Snapshot)
	}
	dst = append(dst, p.db...)
	dst = append(dst, branchSecond)
	start := len(dst)
	if m.Sequence[0] == 0 {
		dst = append(dst, `[null,"`...)
	} else {
		dst = append(dst, `["`...)
		dst = strconv.AppendUint(dst, uint64(m.Sequence[0]), 10)
		dst = append(dst, `","`...)
	}
	dst = strconv.AppendUint(dst, uint64(m.Sequence[1]), 10)
	dst = prefixLength(append(dst, `"]`...), start)
	dst = append(dst, p.table...)
	if m.XID == 0 {
		dst = append(dst, branchFirst)
	} else {
		dst = appendLong(append(dst, branchSecond), int64(m.XID))
	}
	dst = appendLong(append(dst, branchSecond), int64(m.Change))
	dst = appendLong(append(dst, branchSecond), int64(m.Commit))
	dst = appendLong(append(dst, branchSecond), m.Ordinal)
	return append(dst, p.system...)
}

// read is source and what follows it of a row of the first copy. Of rows that are placed together it is the same. It is valid until the
// next call.
func (p *envelopePlan) read(m *Meta) []byte {
	if len(p.lastTail) == 0 || p.lastRead != *m {
		p.lastRead = *m
		p.lastTail = appendTail(p.appendSource(p.lastTail[:0], m), 'r', m)
	}
	return p.lastTail
}

// appendTail appends op, ts_ms, ts_us and transaction.
func appendTail(dst []byte, op byte, m *Meta) []byte {
	dst = append(dst, 2, op) // a string of length 1
	dst = appendLong(append(dst, branchSecond), m.Now.UnixMilli())
	dst = appendLong(append(dst, branchSecond), m.Now.UnixMicro())
	if m.XID == 0 {
		return append(dst, branchFirst)
	}
	dst = append(dst, branchSecond)
	start := len(dst)
	dst = strconv.AppendUint(dst, uint64(m.XID), 10)
	dst = append(dst, ':')
	dst = strconv.AppendUint(dst, uint64(m.Commit), 10)
	dst = prefixLength(dst, start)
	dst = appendLong(dst, m.TotalOrder)
	return appendLong(dst, m.CollectionOrder)
}
