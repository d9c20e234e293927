package schema

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"walferry/decode"
)

// valueFunc appends src, one non-null value in Postgres' form, to dst as Avro. On an error it returns dst as it was
// given, or longer: the caller cuts it back. src is not kept. The error is a *fault.
type valueFunc func(s *scratch, t *typ, dst, src []byte) ([]byte, error)

// typ is how values of one Postgres type, modifier and policy are written.
type typ struct {
	name string // as Postgres names it, for errors and postgres.type
	avro string // Avro schema in JSON
	bin  valueFunc
	// text reads the output function's text under PinnedSettings. It is never nil; bin is nil where the send
	// function's form is not known.
	text valueFunc

	precision, scale int    // decimals
	elem             *typ   // arrays
	elemOID          uint32 // arrays: what the binary form must name
	delim            byte   // arrays: between elements in text
}

// fault is what is wrong with one value; Encoder adds where.
type fault struct{ reason, remedy string }

func (f *fault) Error() string { return f.reason }

// builtin is a row of the mapping table: a scalar type of pg_catalog whose both forms are known.
type builtin struct {
	oid, array uint32 // pg_type.oid, pg_type.typarray
	name       string
	avro       string // "" where it depends on modifier or policy
	bin, text  valueFunc
}

const connectVersion = `,"connect.version":1`

// textual is the schema of a string that holds the text of a type that is no string.
func textual(name string) string {
	return `{"type":"string","postgres.type":` + quote(name) + `}`
}

const (
	avroDate        = `{"type":"int","logicalType":"date"` + connectVersion + `,"connect.name":"org.apache.kafka.connect.data.Date"}`
	avroTime        = `{"type":"long","logicalType":"time-micros"` + connectVersion + `,"connect.name":"io.debezium.time.MicroTime"}`
	avroTimestamp   = `{"type":"long","logicalType":"local-timestamp-micros"` + connectVersion + `,"connect.name":"io.debezium.time.MicroTimestamp"}`
	avroTimestampTZ = `{"type":"long","logicalType":"timestamp-micros","postgres.type":"timestamptz"}`
	avroInterval    = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.time.Interval"}`
	avroJSON        = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.data.Json"}`
	avroXML         = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.data.Xml"}`
	avroUUID        = `{"type":"string","logicalType":"uuid"` + connectVersion + `,"connect.name":"io.debezium.data.Uuid"}`
)

// avroDecimal is what Kafka Connect's AvroConverter writes for its Decimal.
func avroDecimal(precision, scale int) string {
	return fmt.Sprintf(`{"type":"bytes","logicalType":"decimal","precision":%d,"scale":%d%s,`+
		`"connect.parameters":{"scale":"%d","connect.decimal.precision":"%d"},`+
		`"connect.name":"org.apache.kafka.connect.data.Decimal"}`, precision, scale, connectVersion, scale, precision)
}

// OIDs that code refers to (src/include/catalog/pg_type.dat; fixed for ever).
const (
	oidNumeric     = 1700
	oidDate        = 1082
	oidTimestamp   = 1114
	oidTimestampTZ = 1184
	oidMoney       = 790
)

// builtins is the mapping table. docs/types.md is checked against it.
var builtins = []builtin{
	{16, 1000, "bool", `"boolean"`, binBool, textBool},
	{21, 1005, "int2", `{"type":"int","connect.type":"int16"}`, binInt2, textInt2},
	{23, 1007, "int4", `"int"`, binInt4, textInt4},
	{20, 1016, "int8", `"long"`, binInt8, textInt8},
	{26, 1028, "oid", `"long"`, binUint4, textUint4},
	{700, 1021, "float4", `"float"`, binFloat4, textFloat4},
	{701, 1022, "float8", `"double"`, binFloat8, textFloat8},
	{oidNumeric, 1231, "numeric", "", nil, nil},
	{oidMoney, 791, "money", avroDecimal(19, 2), binMoney, textMoney},

	{25, 1009, "text", `"string"`, copyString, copyString},
	{1043, 1015, "varchar", `"string"`, copyString, copyString},
	{1042, 1014, "bpchar", `"string"`, copyString, copyString},
	{19, 1003, "name", `"string"`, copyString, copyString},
	{18, 1002, `"char"`, `"string"`, binChar, textChar},
	{1790, 2201, "refcursor", `"string"`, copyString, copyString},
	{142, 143, "xml", avroXML, copyString, copyString},
	{114, 199, "json", avroJSON, copyString, copyString},
	{3802, 3807, "jsonb", avroJSON, binVersioned, copyString},
	{4072, 4073, "jsonpath", textual("jsonpath"), binVersioned, copyString},
	{17, 1001, "bytea", `"bytes"`, binBytea, textBytea},
	{2950, 2951, "uuid", avroUUID, binUUID, textUUID},

	{oidDate, 1182, "date", avroDate, binDate, textDate},
	{1083, 1183, "time", avroTime, binTime, textTime},
	{1266, 1270, "timetz", textual("timetz"), binTimeTZ, textTimeTZ},
	{oidTimestamp, 1115, "timestamp", avroTimestamp, binTimestamp, textTimestamp},
	{oidTimestampTZ, 1185, "timestamptz", avroTimestampTZ, binTimestamp, textTimestampTZ},
	{1186, 1187, "interval", avroInterval, binInterval, textInterval},

	{1560, 1561, "bit", textual("bit"), binBits, textBits},
	{1562, 1563, "varbit", textual("varbit"), binBits, textBits},
	{869, 1041, "inet", textual("inet"), binInet, copyString},
	{650, 651, "cidr", textual("cidr"), binInet, copyString},
	{829, 1040, "macaddr", textual("macaddr"), binMAC, copyString},
	{774, 775, "macaddr8", textual("macaddr8"), binMAC8, copyString},
	{3220, 3221, "pg_lsn", textual("pg_lsn"), binLSN, copyString},
	{28, 1011, "xid", textual("xid"), binUint4Text, copyString},
	{29, 1012, "cid", textual("cid"), binUint4Text, copyString},
	{5069, 271, "xid8", textual("xid8"), binUint8Text, copyString},
	{27, 1010, "tid", textual("tid"), binTID, copyString},
	{5038, 5039, "pg_snapshot", textual("pg_snapshot"), binSnapshot, copyString},
	{2970, 2949, "txid_snapshot", textual("txid_snapshot"), binSnapshot, copyString},
	{3614, 3643, "tsvector", textual("tsvector"), binTSVector, copyString},

	{600, 1017, "point", textual("point"), binPoint, copyString},
	{628, 629, "line", textual("line"), binLine, copyString},
	{601, 1018, "lseg", textual("lseg"), binSegment, copyString},
	{603, 1020, "box", textual("box"), binBox, copyString},
	{602, 1019, "path", textual("path"), binPath, copyString},
	{604, 1027, "polygon", textual("polygon"), binPolygon, copyString},
	{718, 719, "circle", textual("circle"), binCircle, copyString},
}

// catalogNames are types of pg_catalog that are known by name only: their text is what events hold.
var catalogNames = map[uint32]string{
	24: "regproc", 2202: "regprocedure", 2203: "regoper", 2204: "regoperator", 2205: "regclass", 2206: "regtype",
	4096: "regrole", 4089: "regnamespace", 3734: "regconfig", 3769: "regdictionary", 4191: "regcollation",
	3615: "tsquery", 22: "int2vector", 30: "oidvector", 1033: "aclitem",
	3904: "int4range", 3906: "numrange", 3908: "tsrange", 3910: "tstzrange", 3912: "daterange", 3926: "int8range",
	4451: "int4multirange", 4532: "nummultirange", 4533: "tsmultirange", 4534: "tstzmultirange",
	4535: "datemultirange", 4536: "int8multirange",
}

var (
	byOID   = make(map[uint32]*builtin, len(builtins))
	byArray = make(map[uint32]*builtin, len(builtins))
)

func init() {
	for i := range builtins {
		b := &builtins[i]
		byOID[b.oid], byArray[b.array] = b, b
	}
}

// resolver finds the typ of a column.
type resolver struct {
	types map[uint32]*decode.Type // from the descriptor; may be nil
	opt   ColumnOptions
}

// maxDepth bounds domains over domains and over arrays of them; Postgres cannot nest them in circles, but a descriptor
// is data from outside.
const maxDepth = 64

func (r *resolver) resolve(oid uint32, mod int32, depth int) *typ {
	if b := byOID[oid]; b != nil {
		return r.scalar(b, mod)
	}
	if b := byArray[oid]; b != nil {
		delim := byte(',')
		if b.name == "box" {
			delim = ';'
		}
		return r.array(b.name+"[]", b.oid, mod, delim, depth)
	}
	d := r.types[oid]
	name := typeName(oid, d)
	if d == nil || depth > maxDepth {
		return asText(name, nil)
	}
	switch {
	case d.Kind == 'd':
		base := *r.resolve(d.Base, d.BaseMod, depth+1)
		base.name = name
		return &base
	case d.Kind == 'e':
		return &typ{name: name, avro: avroEnum(name, d.Labels), bin: copyString, text: copyString}
	case d.Elem != 0 && d.Kind == 'b':
		delim := d.Delim
		if delim == 0 {
			delim = ','
		}
		return r.array(typeName(d.Elem, r.types[d.Elem])+"[]", d.Elem, mod, delim, depth)
	case d.Kind == 'b' && d.Name == "citext":
		return &typ{name: name, avro: `"string"`, bin: copyString, text: copyString}
	}
	return asText(name, nil)
}

func (r *resolver) scalar(b *builtin, mod int32) *typ {
	t := &typ{name: b.name, avro: b.avro, bin: b.bin, text: b.text}
	switch b.oid {
	case oidNumeric:
		p, s, ok := numericMod(mod)
		if ok {
			t.name = fmt.Sprintf("numeric(%d,%d)", p, s)
		}
		if !ok || r.opt.Numeric == NumericString {
			t.avro, t.bin, t.text = textual("numeric"), binNumericString, textNumericString
			return t
		}
		t.precision, t.scale = normalize(p, s)
		t.avro, t.bin, t.text = avroDecimal(t.precision, t.scale), binDecimal, textDecimal
	case oidMoney:
		t.precision, t.scale = 19, 2
	case oidDate, oidTimestamp, oidTimestampTZ:
		if r.opt.Time != TimeISO {
			return t
		}
		t.avro, t.text = textual(b.name), copyString
		switch b.oid {
		case oidDate:
			t.bin = binDateText
		case oidTimestamp:
			t.bin = binTimestampText
		default:
			t.bin = binTimestampTZText
		}
	}
	return t
}

func (r *resolver) array(name string, elem uint32, mod int32, delim byte, depth int) *typ {
	if r.opt.Array == ArrayText {
		return asText(name, nil)
	}
	e := r.resolve(elem, mod, depth+1)
	if e.bin == nil {
		return asText(name, nil)
	}
	return &typ{
		name: name, avro: `{"type":"array","items":["null",` + e.avro + `]}`,
		bin: binArray, text: textArray, elem: e, elemOID: elem, delim: delim,
	}
}

// asText is the typ of what is written as the text that Postgres prints.
func asText(name string, bin valueFunc) *typ {
	return &typ{name: name, avro: textual(name), bin: bin, text: copyString}
}

func avroEnum(name string, labels []string) string {
	return `{"type":"string"` + connectVersion + `,"connect.parameters":{"allowed":` + quote(strings.Join(labels, ",")) +
		`},"connect.name":"io.debezium.data.Enum","postgres.type":` + quote(name) + `,"labels":` + quoteAll(labels) + `}`
}

// typeName is the name of a type: bare in pg_catalog, schema.name elsewhere.
func typeName(oid uint32, d *decode.Type) string {
	if d != nil {
		if d.Schema == "" || d.Schema == "pg_catalog" {
			return d.Name
		}
		return d.Schema + "." + d.Name
	}
	if n, ok := catalogNames[oid]; ok {
		return n
	}
	if b := byOID[oid]; b != nil {
		return b.name
	}
	return "oid " + strconv.FormatUint(uint64(oid), 10)
}

// numericMod takes a type modifier apart (numeric_typmod_precision and _scale in src/backend/utils/adt/numeric.c):
// since 15 the scale is a signed number of 11 bits; before it was positive and small enough to read the same.
func numericMod(mod int32) (precision, scale int, ok bool) {
	const header = 4 // VARHDRSZ
	if mod < header {
		return 0, 0, false
	}
	m := uint32(mod - header)
	precision, scale = int(m>>16&0xffff), int(int32((m&0x7ff)^1024)-1024)
	return precision, scale, precision > 0
}

// normalize gives precision and scale that Avro allows (0 ≤ scale ≤ precision) and that hold the same values:
// numeric(3,-2) goes up to 99900, numeric(2,5) is 0.00099 at most.
func normalize(p, s int) (precision, scale int) {
	if s < 0 {
		return p - s, 0
	}
	return max(p, s), s
}

// quote is s as a JSON string. Names and comments from a catalog may hold anything; what is not UTF-8 is replaced.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string into memory: nothing that could fail
	return strings.TrimSuffix(b.String(), "\n")
}

func quoteAll(s []string) string {
	q := make([]string, len(s))
	for i := range s {
		q[i] = quote(s[i])
	}
	return "[" + strings.Join(q, ",") + "]"
}
