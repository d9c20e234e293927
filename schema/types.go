package schema

import (
	"encoding/json"
	"fmt"
	"slices"
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
	// out appends the output function's text out of the binary form, bare; nil where that form is not known. Options of
	// the column do not change it.
	out valueFunc

	precision, scale int              // decimals
	elem             *typ             // of an array, a range's bounds, a multirange's ranges
	elemOID          uint32           // arrays: what the binary form must name
	delim            byte             // arrays: between elements in text
	attrs            []attribute      // composites
	symbols          map[string]int64 // Avro enums: the label's place
}

// attribute is one attribute of a composite.
type attribute struct {
	oid uint32 // what the binary form must name
	typ *typ
}

// fault is what is wrong with one value; Encoder adds where. Stale says that the type's description is of another time
// than the value.
type fault struct {
	reason, remedy string
	stale          bool
}

func (f *fault) Error() string { return f.reason }

// builtin is a row of the mapping table: a scalar type of pg_catalog whose both forms are known.
type builtin struct {
	oid, array uint32 // pg_type.oid, pg_type.typarray
	name       string
	avro       string // "" where it depends on modifier or policy
	bin, text  valueFunc
	out        valueFunc // nil where the Avro string is the text that Postgres prints
}

// avroVariableScale is Debezium's form of a numeric without precision.
func avroVariableScale(path string) string {
	return recordHead(path, "") + `,"fields":[{"name":"scale","type":"int"},{"name":"value","type":"bytes"}]` + connectVersion +
		`,"connect.name":"io.debezium.data.VariableScaleDecimal","postgres.type":"numeric"}`
}

var avroMoney = strings.TrimSuffix(avroDecimal(19, 2), "}") + `,"postgres.type":"money"}`

const avroDouble = `{"type":"double","postgres.type":"numeric"}`

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

	avroTimeMillis      = `{"type":"int","logicalType":"time-millis"` + connectVersion + `,"connect.name":"org.apache.kafka.connect.data.Time"}`
	avroTimestampMillis = `{"type":"long","logicalType":"timestamp-millis"` + connectVersion + `,"connect.name":"org.apache.kafka.connect.data.Timestamp"}`
	avroInstantMillis   = `{"type":"long","logicalType":"timestamp-millis"` + connectVersion + `,"connect.name":"org.apache.kafka.connect.data.Timestamp","postgres.type":"timestamptz"}`

	avroDatePlain        = `{"type":"int"` + connectVersion + `,"connect.name":"io.debezium.time.Date"}`
	avroTimePlain        = `{"type":"long"` + connectVersion + `,"connect.name":"io.debezium.time.MicroTime"}`
	avroTimestampPlain   = `{"type":"long"` + connectVersion + `,"connect.name":"io.debezium.time.MicroTimestamp"}`
	avroTimestampTZPlain = `{"type":"long","postgres.type":"timestamptz"}`

	avroBytea    = `{"type":"string","postgres.type":"bytea","encoding":`
	avroInterval = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.time.Interval"}`
	avroJSON     = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.data.Json"}`
	avroXML      = `{"type":"string"` + connectVersion + `,"connect.name":"io.debezium.data.Xml"}`
	avroUUID     = `{"type":"string","logicalType":"uuid"` + connectVersion + `,"connect.name":"io.debezium.data.Uuid"}`
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
	oidChar        = 18
	oidMoney       = 790
	oidBytea       = 17
	oidTime        = 1083
)

// builtins is the mapping table. docs/types.md is checked against it.
var builtins = []builtin{
	{16, 1000, "bool", `"boolean"`, binBool, textBool, outBool},
	{21, 1005, "int2", `{"type":"int","connect.type":"int16"}`, binInt2, textInt2, outInt2},
	{23, 1007, "int4", `"int"`, binInt4, textInt4, outInt4},
	{20, 1016, "int8", `"long"`, binInt8, textInt8, outInt8},
	{26, 1028, "oid", `"long"`, binUint4, textUint4, outUint4},
	{700, 1021, "float4", `"float"`, binFloat4, textFloat4, outFloat4},
	{701, 1022, "float8", `"double"`, binFloat8, textFloat8, outFloat8},
	{oidNumeric, 1231, "numeric", "", nil, nil, appendNumeric},
	{oidMoney, 791, "money", avroMoney, binMoney, textMoney, outMoney},

	{25, 1009, "text", `"string"`, copyString, copyString, nil},
	{1043, 1015, "varchar", `"string"`, copyString, copyString, nil},
	{1042, 1014, "bpchar", `"string"`, copyString, copyString, nil},
	{19, 1003, "name", `"string"`, copyString, copyString, nil},
	{oidChar, 1002, `"char"`, `"string"`, binChar, textChar, nil},
	{1790, 2201, "refcursor", `"string"`, copyString, copyString, nil},
	{142, 143, "xml", avroXML, copyString, copyString, nil},
	{114, 199, "json", avroJSON, copyString, copyString, nil},
	{3802, 3807, "jsonb", avroJSON, binVersioned, copyString, nil},
	{4072, 4073, "jsonpath", textual("jsonpath"), binVersioned, copyString, nil},
	{oidBytea, 1001, "bytea", `"bytes"`, binBytea, textBytea, outBytea},
	{2950, 2951, "uuid", avroUUID, binUUID, textUUID, nil},

	{oidDate, 1182, "date", avroDate, binDate, textDate, stripped(binDateText)},
	{oidTime, 1183, "time", avroTime, binTime, textTime, outTime},
	{1266, 1270, "timetz", textual("timetz"), binTimeTZ, textTimeTZ, outTimeTZ},
	{oidTimestamp, 1115, "timestamp", avroTimestamp, binTimestamp, textTimestamp, stripped(binTimestampText)},
	{oidTimestampTZ, 1185, "timestamptz", avroTimestampTZ, binTimestamp, textTimestampTZ, stripped(binTimestampTZText)},
	{1186, 1187, "interval", avroInterval, binInterval, textInterval, nil},

	{1560, 1561, "bit", textual("bit"), binBits, textBits, nil},
	{1562, 1563, "varbit", textual("varbit"), binBits, textBits, nil},
	{869, 1041, "inet", textual("inet"), binInet, copyString, nil},
	{650, 651, "cidr", textual("cidr"), binInet, copyString, nil},
	{829, 1040, "macaddr", textual("macaddr"), binMAC, copyString, nil},
	{774, 775, "macaddr8", textual("macaddr8"), binMAC8, copyString, nil},
	{3220, 3221, "pg_lsn", textual("pg_lsn"), binLSN, copyString, nil},
	{28, 1011, "xid", textual("xid"), binUint4Text, copyString, nil},
	{29, 1012, "cid", textual("cid"), binUint4Text, copyString, nil},
	{5069, 271, "xid8", textual("xid8"), binUint8Text, copyString, nil},
	{22, 1006, "int2vector", textual("int2vector"), binOut, copyString, outVector},
	{30, 1013, "oidvector", textual("oidvector"), binOut, copyString, outVector},
	{27, 1010, "tid", textual("tid"), binTID, copyString, nil},
	{5038, 5039, "pg_snapshot", textual("pg_snapshot"), binSnapshot, copyString, nil},
	{2970, 2949, "txid_snapshot", textual("txid_snapshot"), binSnapshot, copyString, nil},
	{3614, 3643, "tsvector", textual("tsvector"), binTSVector, copyString, nil},
	{3615, 3645, "tsquery", textual("tsquery"), binOut, copyString, outTSQuery},

	{600, 1017, "point", textual("point"), binPoint, copyString, nil},
	{628, 629, "line", textual("line"), binLine, copyString, nil},
	{601, 1018, "lseg", textual("lseg"), binSegment, copyString, nil},
	{603, 1020, "box", textual("box"), binBox, copyString, nil},
	{602, 1019, "path", textual("path"), binPath, copyString, nil},
	{604, 1027, "polygon", textual("polygon"), binPolygon, copyString, nil},
	{718, 719, "circle", textual("circle"), binCircle, copyString, nil},
}

// catalogNames are types of pg_catalog that are known by name only: their text is what events hold.
var catalogNames = map[uint32]string{
	24: "regproc", 2202: "regprocedure", 2203: "regoper", 2204: "regoperator", 2205: "regclass", 2206: "regtype",
	4096: "regrole", 4089: "regnamespace", 3734: "regconfig", 3769: "regdictionary", 4191: "regcollation",
	1033: "aclitem",
}

// builtinRange is a range type of pg_catalog, with its multirange and their arrays.
type builtinRange struct {
	oid, array, sub   uint32
	name              string
	multi, multiArray uint32
	multiName         string
}

var builtinRanges = []builtinRange{
	{3904, 3905, 23, "int4range", 4451, 6150, "int4multirange"},
	{3906, 3907, oidNumeric, "numrange", 4532, 6151, "nummultirange"},
	{3908, 3909, oidTimestamp, "tsrange", 4533, 6152, "tsmultirange"},
	{3910, 3911, oidTimestampTZ, "tstzrange", 4534, 6153, "tstzmultirange"},
	{3912, 3913, oidDate, "daterange", 4535, 6155, "datemultirange"},
	{3926, 3927, 20, "int8range", 4536, 6157, "int8multirange"},
}

var (
	byOID   = make(map[uint32]*builtin, len(builtins))
	byArray = make(map[uint32]*builtin, len(builtins))

	rangeByOID = make(map[uint32]*builtinRange, 4*len(builtinRanges)) // by any of its four OIDs
)

func init() {
	for i := range builtins {
		b := &builtins[i]
		byOID[b.oid], byArray[b.array] = b, b
		if b.out == nil {
			b.out = stripped(b.bin)
		}
	}
	for i := range builtinRanges {
		b := &builtinRanges[i]
		for _, oid := range []uint32{b.oid, b.array, b.multi, b.multiArray} {
			rangeByOID[oid] = b
		}
	}
}

// resolver finds the typ of a column.
type resolver struct {
	types map[uint32]*decode.Type // from the descriptor; may be nil
	opt   ColumnOptions
	// suffix numbers names that collide after sanitising; otherwise they are err.
	suffix bool
	// key: the field is one of a key, whose schema must not change with what the bytes of its values do not show.
	key   bool
	open  []uint32 // types that are being resolved, outermost first
	count int
	err   error // the first *CollisionError within a type
}

// maxTypes bounds what a column is made of. Postgres cannot nest types in circles, but a descriptor is data from outside,
// and types that hold two of the next double with each step.
const maxTypes = 10000

// resolve finds the typ of a type with its modifier. path is the full name of the Avro record or enum that it becomes, if it
// becomes one: a name of its own for each place in the row, since options differ by column, and since a type that is
// renamed or used once more then changes no name.
func (r *resolver) resolve(oid uint32, mod int32, path string) *typ {
	if b := byOID[oid]; b != nil {
		return r.scalar(b, mod, path)
	}
	if b := byArray[oid]; b != nil {
		delim := byte(',')
		if b.name == "box" {
			delim = ';'
		}
		return r.array(b.name+"[]", b.oid, mod, delim, path)
	}
	switch b := rangeByOID[oid]; {
	case b == nil:
	case oid == b.oid:
		return r.rangeOf(b.name, b.sub, path)
	case oid == b.multi:
		return r.multirange(b.multiName, b.oid, path)
	case oid == b.array:
		return r.array(b.name+"[]", b.oid, -1, ',', path)
	default:
		return r.array(b.multiName+"[]", b.multi, -1, ',', path)
	}
	d := r.types[oid]
	name := typeName(oid, d)
	if r.count++; d == nil || slices.Contains(r.open, oid) || r.count > maxTypes {
		return r.asText(name)
	}
	r.open = append(r.open, oid)
	defer func() { r.open = r.open[:len(r.open)-1] }()
	switch {
	case d.Kind == 'd':
		base := *r.resolve(d.Base, d.BaseMod, path)
		base.name = name
		return &base
	case d.Kind == 'e':
		return r.enum(name, d.Labels, path)
	case d.Kind == 'c' && len(d.Attributes) > 0:
		return r.composite(name, d.Attributes, path)
	case d.Kind == 'r' && d.Subtype != 0:
		return r.rangeOf(name, d.Subtype, path)
	case d.Kind == 'm' && d.Range != 0:
		return r.multirange(name, d.Range, path)
	case d.Elem != 0 && d.Kind == 'b':
		delim := d.Delim
		if delim == 0 {
			delim = ','
		}
		return r.array(typeName(d.Elem, r.types[d.Elem])+"[]", d.Elem, mod, delim, path)
	case d.Kind == 'b' && d.Name == "citext":
		return &typ{name: name, avro: `"string"`, bin: copyString, text: copyString, out: stripped(copyString)}
	case d.Kind == 'b' && d.Extension != "":
		if t := r.extensionType(d, name, path); t != nil {
			if !d.HasBinary { // an old version of the extension
				t.bin, t.out = nil, nil
			}
			return t
		}
	}
	return r.asText(name)
}

// postgresType is the property of that name. In a key, one that is not a name of Postgres' own is left out: a type can be
// renamed, moved to another schema, or be gone by the time that its name is asked for.
func (r *resolver) postgresType(name string) string {
	if r.key && strings.ContainsAny(name, ". ") { // see typeName: schema.name, or a number
		return ""
	}
	return `,"postgres.type":` + quote(name)
}

func (r *resolver) textual(name string) string {
	p := r.postgresType(name)
	if p == "" {
		return `"string"`
	}
	return `{"type":"string"` + p + `}`
}

func (r *resolver) scalar(b *builtin, mod int32, path string) *typ {
	t := &typ{name: b.name, avro: b.avro, bin: b.bin, text: b.text, out: b.out}
	switch b.oid {
	case oidNumeric:
		p, s, ok := numericMod(mod)
		if !ok {
			switch r.opt.Unconstrained {
			case NumericScale:
				t.avro, t.bin, t.text = avroVariableScale(path), binVariableScale, textVariableScale
			case NumericDouble:
				t.avro, t.bin, t.text = avroDouble, binNumericDouble, textNumericDouble
			default:
				t.avro, t.bin, t.text = textual("numeric"), binNumericString, textNumericString
			}
			return t
		}
		t.name = fmt.Sprintf("numeric(%d,%d)", p, s)
		switch r.opt.Numeric {
		case NumericString:
			t.avro, t.bin, t.text = textual("numeric"), binNumericString, textNumericString
		case NumericDouble:
			t.avro, t.bin, t.text = avroDouble, binNumericDouble, textNumericDouble
		default:
			t.precision, t.scale = normalize(p, s)
			t.avro, t.bin, t.text = avroDecimal(t.precision, t.scale), binDecimal, textDecimal
		}
	case oidMoney:
		t.precision, t.scale = 19, 2
	case oidBytea:
		switch r.opt.Binary {
		case BinaryBase64:
			t.avro, t.bin, t.text = avroBytea+`"base64"}`, binBase64, textBase64
		case BinaryHex:
			t.avro, t.bin, t.text = avroBytea+`"hex"}`, binHex, textHex
		}
	case oidDate, oidTime, oidTimestamp, oidTimestampTZ:
		r.time(t, b)
	}
	return t
}

// time applies the choice of that name to date, time, timestamp and timestamptz.
func (r *resolver) time(t *typ, b *builtin) {
	switch r.opt.Time {
	case TimeISO:
		t.avro, t.bin, t.text = textual(b.name), binOut, copyString
	case TimePlain:
		t.avro = map[uint32]string{oidDate: avroDatePlain, oidTime: avroTimePlain, oidTimestamp: avroTimestampPlain,
			oidTimestampTZ: avroTimestampTZPlain}[b.oid]
	case TimeConnect:
		switch b.oid { // a date is Connect's by default
		case oidTime:
			t.avro, t.bin, t.text = avroTimeMillis, binTimeMillis, textTimeMillis
		case oidTimestamp:
			t.avro, t.bin, t.text = avroTimestampMillis, binTimestampMillis, textTimestampMillis
		case oidTimestampTZ:
			t.avro, t.bin, t.text = avroInstantMillis, binTimestampMillis, textTimestampTZMillis
		}
	}
}

func (r *resolver) array(name string, elem uint32, mod int32, delim byte, path string) *typ {
	e := r.resolve(elem, mod, path)
	t := &typ{name: name, text: textArray, elem: e, elemOID: elem, delim: delim}
	if e.out != nil {
		t.out = outArray
	}
	if r.opt.Array == ArrayText {
		t.avro, t.text = r.textual(name), copyString
		if elem == oidChar {
			t.text = textCharArray
		}
		if t.out != nil {
			t.bin = binOut
		}
		return t
	}
	if e.bin != nil {
		t.bin = binArray
	}
	t.avro = `{"type":"array","items":["null",` + e.avro + `]`
	if delim != ',' {
		t.avro += `,"postgres.delimiter":` + quote(string(rune(delim)))
	}
	t.avro += `}`
	return t
}

// rangeOf is the typ of a range over a type. Bounds take no modifier.
func (r *resolver) rangeOf(name string, sub uint32, path string) *typ {
	e := r.resolve(sub, -1, path+"_.lower")
	t := &typ{name: name, avro: r.textual(name), text: copyString, elem: e}
	if e.out != nil {
		t.bin, t.out = binOut, outRange
	}
	if r.opt.Range != RangeRecord {
		return t
	}
	t.bin, t.text = nil, textRangeRecord
	if e.bin != nil {
		t.bin = binRangeRecord
	}
	// Each bound has names of its own for what it holds: Avro defines a name once.
	bound := func(name string) string {
		e := r.resolve(sub, -1, path+"_."+name)
		return `{"name":"` + name + `","type":["null",` + e.avro + `],"default":null},`
	}
	t.avro = recordHead(path, "") + `,"fields":[` + bound("lower") + bound("upper") +
		`{"name":"lower_inclusive","type":"boolean"},{"name":"upper_inclusive","type":"boolean"},{"name":"empty","type":"boolean"}]` +
		`,"connect.name":` + quote(path) + r.postgresType(name) + `,"postgres.kind":"range"}`
	return t
}

func (r *resolver) multirange(name string, sub uint32, path string) *typ {
	e := r.resolve(sub, -1, path)
	t := &typ{name: name, avro: r.textual(name), text: copyString, elem: e}
	if e.out != nil {
		t.bin, t.out = binOut, outMultirange
	}
	if r.opt.Range != RangeRecord {
		return t
	}
	t.bin, t.text = nil, textMultirange
	if e.bin != nil {
		t.bin = binMultirange
	}
	t.avro = `{"type":"array","items":` + e.avro + r.postgresType(name) + `,"postgres.kind":"multirange"}`
	return t
}

// composite is a record of its attributes, each of which can be null. Its binary form is known where theirs are.
func (r *resolver) composite(name string, attrs []decode.Attribute, path string) *typ {
	t := &typ{name: name, bin: binComposite, text: textComposite, out: outComposite}
	list := make([]string, len(attrs))
	for i := range attrs {
		list[i] = attrs[i].Name
	}
	names := r.names("type "+name, list)
	fields := make([]string, len(attrs))
	for i, a := range attrs {
		e := r.resolve(a.Type, a.Mod, path+"_."+recordName(names[i]))
		t.attrs = append(t.attrs, attribute{a.Type, e})
		original := a.Name
		if r.key {
			original = names[i]
		}
		fields[i] = fieldJSON(&field{name: names[i], nullable: true, typ: e}, original, "")
		if e.bin == nil {
			t.bin = nil
		}
		if e.out == nil {
			t.out = nil
		}
	}
	t.avro = recordHead(path, "") + `,"fields":[` + strings.Join(fields, ",") + `],"connect.name":` + quote(path) +
		r.postgresType(name) + `,"postgres.kind":"composite"}`
	return t
}

// enum is the label as a string, or by choice an Avro enum. In a key it is a string of which nothing more is said, whatever the
// choice: labels come, and change their places, and keys must not become others with them.
func (r *resolver) enum(name string, labels []string, path string) *typ {
	t := &typ{name: name, avro: `"string"`, bin: copyString, text: copyString, out: stripped(copyString)}
	if r.key {
		return t
	}
	properties := `,"connect.parameters":{"allowed":` + quote(strings.Join(labels, ",")) + `},"connect.name":"io.debezium.data.Enum","postgres.type":` +
		quote(name) + `,"labels":` + quoteAll(labels) + `}`
	t.avro = `{"type":"string"` + connectVersion + properties
	if r.opt.Enum == EnumAvro && len(labels) > 0 {
		symbols := r.names("type "+name, labels)
		t.bin, t.text, t.symbols = enumSymbol, enumSymbol, make(map[string]int64, len(labels))
		for i, l := range labels {
			t.symbols[l] = int64(i)
		}
		dot := strings.LastIndexByte(path, '.')
		t.avro = `{"type":"enum","name":` + quote(path[dot+1:]) + `,"namespace":` + quote(path[:dot]) + `,"symbols":` + quoteAll(symbols) +
			connectVersion + properties
	}
	return t
}

// names are the Avro names of columns, attributes or labels, as Options.Collisions says.
func (r *resolver) names(of string, list []string) []string {
	names, err := avroNames(of, list, r.suffix)
	if err != nil && r.err == nil {
		r.err = err
	}
	return names
}

// asText is the typ of what is known as the text that Postgres prints only.
func (r *resolver) asText(name string) *typ {
	return &typ{name: name, avro: r.textual(name), text: copyString}
}

// typeName is the name of a type: bare in pg_catalog, schema.name elsewhere, "oid 123" of one that nothing is known of.
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
	if b := rangeByOID[oid]; b != nil {
		if oid == b.multi {
			return b.multiName
		}
		return b.name
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
