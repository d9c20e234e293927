package schema_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"walferry/decode"
	"walferry/internal/testbed"
	"walferry/schema"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// hostile settings are put on database and role; a stream pins its own, and events must not feel them.
var hostile = []string{
	"DateStyle='German, DMY'", "IntervalStyle='postgres_verbose'", "extra_float_digits=-15", "bytea_output='escape'",
	"TimeZone='Asia/Kathmandu'", "xmlbinary='hex'", "standard_conforming_strings=off",
}

// values are SQL literals by type: edges first of all.
var values = []struct {
	typ    string
	values []string
}{
	{"bool", []string{"t", "f"}},
	{"int2", []string{"0", "-1", "32767", "-32768"}},
	{"int4", []string{"0", "-1", "2147483647", "-2147483648"}},
	{"int8", []string{"0", "63", "64", "-64", "-65", "9223372036854775807", "-9223372036854775808"}},
	{"oid", []string{"0", "4294967295"}},
	{"float4", []string{"0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1", "123456.7", "1e15", "1.17549435e-38"}},
	{"float8", []string{"0", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1", "1e15", "1e23",
		"123456789012345", "2.2250738585072011e-308"}},
	{"numeric(12,2)", []string{"0", "-0.01", "0.01", "1.28", "-1.28", "327.67", "327.68", "-327.68", "-327.69", "9999999999.99", "-9999999999.99", "10000", "100000000"}},
	{"numeric(1,0)", []string{"0", "9", "-9"}},
	{"numeric(5,5)", []string{"0.00001", "-0.99999", "0.1"}},
	{"numeric(38,17)", []string{"123456789012345678901.12345678901234567", "-999999999999999999999.99999999999999999", "0.00000000000000001"}},
	{"numeric(1000,500)", []string{"1e499", "-1e-500", "123.456"}},
	{"numeric", []string{"0", "0.0", "0.00", "-0.10", "1e4", "1e-4", "10000.0001", "NaN", "1e131071", "1e-16383", "-123456789.000000000000000000", "1234.50000"}},
	{"money", []string{"0", "-0.01", "1234567.89", "92233720368547758.07", "-92233720368547758.08", "999.99", "1000"}},
	{"text", []string{"", "a", "héllo ✓ 🐘", `\x00`, "\n\t'\""}},
	{"varchar(10)", []string{"", "abc"}},
	{"char(5)", []string{"", "ab", "é"}},
	{"name", []string{"", "tbl"}},
	{`"char"`, []string{"", "x", "\\"}},
	{"refcursor", []string{"c"}},
	{"xml", []string{"<a b=\"c\">é</a>", `<?xml version="1.0" encoding="UTF-8" standalone="yes"?><x/>`, `<?xml version="1.1"?><x/>`}},
	{"json", []string{"{}", `{"a" :  1e3, "a": 2}`, "null"}},
	{"jsonb", []string{"{}", `{"a" :  1e3, "a": 2, "é": "\u00e9"}`, "null", "123456789012345678901234567890.10"}},
	{"jsonpath", []string{"$", `strict $."a b"[*] ? (@ > 1)`}},
	{"bytea", []string{"", `\x`, `\x00ff5c27`, `\x5c7861`}},
	{"uuid", []string{"00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}},
	{"date", []string{"1970-01-01", "2000-01-01", "2000-02-29", "1999-12-31", "0001-01-01", "0001-12-31 BC", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity", "1582-10-10", "0005-02-29 BC"}},
	{"time", []string{"00:00", "24:00", "23:59:59.999999", "01:02:03.1", "00:00:00.000001"}},
	{"time(0)", []string{"12:34:56.7"}},
	{"timetz", []string{"00:00+00", "24:00-15:59:59", "01:02:03.4+15:59:59", "12:00-08", "12:00+05:30", "12:00-00:00:01"}},
	{"timestamp", []string{"1970-01-01", "2000-01-01", "1999-12-31 23:59:59.999999", "4714-11-24 BC", "0001-01-01 BC", "294247-01-10 04:00:54.775806", "infinity", "-infinity", "2024-06-01 12:34:56.7"}},
	{"timestamptz", []string{"1970-01-01 00:00+00", "1999-12-31 23:59:59.999999+00", "4714-11-25 BC", "1890-01-01 00:00 Europe/Amsterdam", "infinity", "-infinity", "2024-06-01 12:34:56.7-07:30"}},
	{"interval", []string{"0", "1 year 2 mons 3 days 04:05:06.789", "-1 year 2 mons -3 days 04:05:06", "1 mon -1 us", "-13 mons", "178956970 years 7 mons", "-178956970 years -8 mons",
		"2147483647 days", "-2147483648 days", "2147483647:59:59.999999", "-2147483647:59:59.999999", "00:00:00.1", "-00:00:00.000001", "-1 day +02:03"}},
	{"bit(3)", []string{"101", "000"}},
	{"bit(8)", []string{"10000001"}},
	{"varbit", []string{"", "1", "000000001"}},
	{"inet", []string{"1.2.3.4", "1.2.3.4/24", "0.0.0.0/0", "::", "::1", "::/0", "::ffff:1.2.3.4", "::1.2.3.4", "::1:2", "1::", "1:0:0:2::3", "2001:db8:0:0:1:0:0:1", "fe80::1/64", "::ffff:0:1", "0:0:0:0:0:1:2:3", "1:2:3:4:5:6:7:8", "0:1::"}},
	{"cidr", []string{"10.0.0.0/8", "1.2.3.4", "2001:db8::/32", "::/0", "::ffff:1.2.3.4/128"}},
	{"macaddr", []string{"08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"}},
	{"macaddr8", []string{"08:00:2b:01:02:03:04:05"}},
	{"pg_lsn", []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"}},
	{"xid", []string{"0", "4294967295"}},
	{"cid", []string{"0", "4294967295"}},
	{"xid8", []string{"0", "18446744073709551615"}},
	{"tid", []string{"(0,0)", "(4294967295,65535)"}},
	{"pg_snapshot", []string{"10:20:10,14,15", "1:1:"}},
	{"txid_snapshot", []string{"10:20:10,14,15"}},
	{"tsvector", []string{"", "a:1A,2B,3C,4 b 'it''s':5 '\\\\'", "'é x'"}},
	{"point", []string{"(1,2)", "(NaN,Infinity)", "(-0,1e-5)", "(0.0001,123456789012345)", "(1e15,1e23)", "(2e-44,9007199254740993)"}},
	{"line", []string{"{1,-1,0.5}"}},
	{"lseg", []string{"[(1,2),(3,4)]"}},
	{"box", []string{"(3,4),(1,2)"}},
	{"path", []string{"((1,2),(3,4))", "[(1,2)]"}},
	{"polygon", []string{"((1,2),(3,4),(5,6.5))"}},
	{"circle", []string{"<(1,2),3>"}},
	{"mood", []string{"sad", "it's, \"ok\"", "ぁ"}},
	{"citext", []string{"Ab"}},
	{"positive", []string{"1"}},
	{"price", []string{"12.50", "-1"}},
	{"ints", []string{"{1,2,NULL}"}},
	{"int4[]", []string{"{}", "{1,NULL,-3}"}},
	{"bool[]", []string{"{t,f,NULL}"}},
	{"text[]", []string{"{}", `{"",NULL,"NULL","null",a,"a b","{}",",","\\","\"","é"}`}},
	{"numeric(12,2)[]", []string{"{1.25,NULL,-3}"}},
	{"timestamptz[]", []string{`{"2024-01-01 00:00+00",infinity}`}},
	{"bytea[]", []string{`{"\\x00ff",NULL}`}},
	{"interval[]", []string{`{1 day,-1 mon}`}},
	{"box[]", []string{"{(3,4),(1,2);(1,1),(0,0)}"}},
	{"point[]", []string{`{"(1,2)","(3,4)"}`}},
	{"mood[]", []string{`{sad,NULL,"it's, \"ok\""}`}},
	{"price[]", []string{"{1,2.5}"}},
	{"ints[]", []string{`{"{1,2}",NULL,"{}"}`}},
	{"jsonb[]", []string{`{"{\"a\": [1, null]}","null"}`}},
	{"uuid[]", []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"}},
	// Text only.
	{"int4range", []string{"[1,5)", "empty"}},
	{"tsquery", []string{"a & b"}},
	{"regclass", []string{"pg_class"}},
	{"pair", []string{`(1,"a b")`}},
	{"pair[]", []string{`{"(1,a)"}`}},
	{"int2vector", []string{"1 2 3"}},
	{"hstore", []string{`a=>1, b=>NULL`}},
}

// TestServerValues fetches each value in both forms as the stream would, wants the same Avro bytes from both, and from
// these the text that Postgres prints.
func TestServerValues(t *testing.T) {
	for _, version := range []string{"14", "18"} {
		t.Run(version, func(t *testing.T) {
			if testing.Short() {
				t.Skip("starts a server; run without -short")
			}
			pg := testbed.Postgres(t, version)
			setUp(t, pg)
			conn := pinned(t, pg)
			types := descriptors(t, conn)
			for _, v := range values {
				list := v.values
				if v.typ == "numeric" {
					list = append(list, "Infinity", "-Infinity")
				}
				if v.typ == "interval" && version >= "17" {
					list = append(list, "infinity", "-infinity")
				}
				if v.typ == "numeric(3,-2)" && version < "15" {
					continue
				}
				for _, literal := range list {
					compare(t, conn, types, fmt.Sprintf("SELECT CAST(%s AS %s) AS x", quoteSQL(literal), v.typ), nil, nil)
				}
			}
			if version >= "15" {
				for _, typ := range []string{"numeric(3,-2)", "numeric(2,5)", "numeric(1000,-1000)", "numeric(1000,1000)"} {
					for _, literal := range []string{"0", "0.00099", "-0.00001", "99900", "-100"} {
						compareIfValid(t, conn, types, literal, typ)
					}
				}
			}
			randomValues(t, conn, types)
		})
	}
}

func setUp(t *testing.T, pg *testbed.PG) {
	t.Helper()
	for _, s := range hostile {
		pg.Exec(testbed.Superuser, "ALTER DATABASE "+testbed.Shop+" SET "+s, "ALTER ROLE "+testbed.Superuser+" SET "+s)
	}
	pg.Exec(testbed.Superuser,
		"CREATE EXTENSION citext", "CREATE EXTENSION hstore",
		`CREATE TYPE mood AS ENUM ('sad', 'it''s, "ok"', 'ぁ')`,
		"CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)",
		"CREATE DOMAIN amount AS numeric(10,2)",
		"CREATE DOMAIN price AS amount",
		"CREATE DOMAIN ints AS int4[]",
		"CREATE TYPE pair AS (a int4, b text)",
	)
}

func pinned(t *testing.T, pg *testbed.PG) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(pg.DSN(testbed.Superuser))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range schema.PinnedSettings {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) }) // the server ends right after
	return conn
}

// descriptors reads what the catalog says of all types.
func descriptors(t *testing.T, conn *pgx.Conn) map[uint32]*decode.Type {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT t.oid::int8, n.nspname, t.typname, t.typtype::text, t.typcategory::text,
		CASE WHEN t.typcategory = 'A' AND t.typname NOT IN ('int2vector', 'oidvector') THEN t.typelem::int8 ELSE 0 END,
		t.typbasetype::int8, t.typtypmod, t.typdelim::text, t.typsend::oid <> 0,
		ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	types := map[uint32]*decode.Type{}
	for rows.Next() {
		var d decode.Type
		var oid, elem, base int64
		var kind, category, delim string
		if err := rows.Scan(&oid, &d.Schema, &d.Name, &kind, &category, &elem, &base, &d.BaseMod, &delim, &d.HasBinary, &d.Labels); err != nil {
			t.Fatal(err)
		}
		d.OID, d.Elem, d.Base = uint32(oid), uint32(elem), uint32(base)
		d.Kind, d.Category, d.Delim = kind[0], category[0], delim[0]
		types[d.OID] = &d
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return types
}

func compareIfValid(t *testing.T, conn *pgx.Conn, types map[uint32]*decode.Type, literal, typ string) {
	t.Helper()
	sql := fmt.Sprintf("SELECT CAST(%s AS %s) AS x", quoteSQL(literal), typ)
	if r := conn.PgConn().ExecParams(t.Context(), sql, nil, nil, nil, nil).Read(); r.Err != nil {
		return // out of the type's range
	}
	compare(t, conn, types, sql, nil, nil)
}

// compare runs a query of one value, once for each form.
func compare(t *testing.T, conn *pgx.Conn, types map[uint32]*decode.Type, sql string, args [][]byte, oids []uint32) {
	t.Helper()
	formats := make([]int16, len(args))
	for i := range formats {
		formats[i] = pgx.BinaryFormatCode
	}
	fetch := func(result []int16) *pgconn.Result {
		r := conn.PgConn().ExecParams(t.Context(), sql, args, oids, formats, result).Read()
		if r.Err != nil {
			t.Fatalf("%s: %v", sql, r.Err)
		}
		return r
	}
	r := fetch([]int16{pgx.TextFormatCode})
	printed := r.Rows[0][0]
	f := r.FieldDescriptions[0]
	// A domain goes to clients as its base type, but the stream names the domain: ask.
	oid, mod := f.DataTypeOID, f.TypeModifier
	if len(args) == 0 {
		named := conn.PgConn().ExecParams(t.Context(), "SELECT pg_typeof(x)::oid::int8 FROM ("+sql+") s", nil, nil, nil, nil).Read()
		if named.Err != nil {
			t.Fatalf("%s: %v", sql, named.Err)
		}
		var id uint32
		if _, err := fmt.Sscan(string(named.Rows[0][0]), &id); err != nil {
			t.Fatal(err)
		}
		if id != oid {
			oid, mod = id, -1
		}
	}
	desc := &decode.Descriptor{Types: types}
	typ := schema.Resolve(desc, oid, mod)
	fromText, err := typ.Append(nil, decode.Datum{Kind: decode.Text, Data: printed})
	if err != nil {
		t.Errorf("%s: text %q: %v", sql, printed, err)
		return
	}
	if typ.KnowsBinary() {
		r = fetch([]int16{pgx.BinaryFormatCode})
		fromBinary, err := typ.Append(nil, decode.Datum{Kind: decode.Binary, Data: r.Rows[0][0]})
		if err != nil {
			t.Errorf("%s: binary %x: %v", sql, r.Rows[0][0], err)
			return
		}
		if string(fromText) != string(fromBinary) {
			t.Errorf("%s: printed %q\nbinary %x\nfrom text   %x\nfrom binary %x", sql, printed, r.Rows[0][0], fromText, fromBinary)
			return
		}
	}
	if got := typ.Invert(t, fromText); got != string(printed) && !sameFloat(typ.Name(), got, string(printed)) {
		t.Errorf("%s: the inverse is %q, Postgres prints %q", sql, got, printed)
	}
}

// sameFloat: the shortest text of a float is not always Postgres' (see appendFloatText), its value is.
func sameFloat(typ, a, b string) bool {
	if typ != "float4" && typ != "float8" {
		return false
	}
	var x, y float64
	_, err1 := fmt.Sscan(a, &x)
	_, err2 := fmt.Sscan(b, &y)
	if typ == "float4" {
		x, y = float64(float32(x)), float64(float32(y))
	}
	return err1 == nil && err2 == nil && math.Float64bits(x) == math.Float64bits(y)
}

func quoteSQL(s string) string {
	out := "E'"
	for _, r := range s {
		if r == '\'' || r == '\\' {
			out += string(r)
		}
		out += string(r)
	}
	return out + "'"
}

// randomValues sends random bytes as binary parameters of types whose every pattern, or nearly, is a value.
func randomValues(t *testing.T, conn *pgx.Conn, types map[uint32]*decode.Type) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	u64 := binary.BigEndian.AppendUint64
	u32 := binary.BigEndian.AppendUint32
	u16 := binary.BigEndian.AppendUint16
	// float bits: any, powers of two, and short decimals scaled up, whose shortest text can lie on a bound.
	float := func(b []byte) []byte {
		switch rnd.IntN(4) {
		case 0:
			return u64(b, rnd.Uint64())
		case 1:
			return u64(b, rnd.Uint64N(2047)<<52)
		case 2:
			return u64(b, math.Float64bits(float64(rnd.IntN(10000))*math.Pow(10, float64(rnd.IntN(60)-30))))
		}
		return u64(b, math.Float64bits(float64(rnd.Int64N(1<<60))/float64(int64(1)<<rnd.IntN(60))))
	}
	micros := func(b []byte) []byte {
		// 4713 BC to 294246, or near now.
		if rnd.IntN(2) == 0 {
			return u64(b, uint64(rnd.Int64N(9223371331200000000-31000000000000000)))
		}
		return u64(b, uint64(-rnd.Int64N(211813488000000000)))
	}
	for _, g := range []struct {
		typ string
		oid uint32
		gen func(b []byte) []byte
	}{
		{"point", 600, func(b []byte) []byte { return float(float(b)) }},
		{"float8", 701, float},
		{"float4", 700, func(b []byte) []byte { return u32(b, rnd.Uint32()) }},
		{"int8", 20, func(b []byte) []byte { return u64(b, rnd.Uint64()>>rnd.IntN(64)) }},
		{"date", 1082, func(b []byte) []byte { return u32(b, uint32(rnd.Int32N(2145031949+2451545)-2451545)) }},
		{"timestamp", 1114, micros},
		{"timestamptz", 1184, micros},
		{"time", 1083, func(b []byte) []byte { return u64(b, uint64(rnd.Int64N(86400e6+1))) }},
		{"timetz", 1266, func(b []byte) []byte {
			return u32(u64(b, uint64(rnd.Int64N(86400e6+1))), uint32(rnd.Int32N(2*57600-1)-57599))
		}},
		{"interval", 1186, func(b []byte) []byte {
			// Before 15 the hours printed are an int32.
			micros := rnd.Int64N(7.7e18) >> rnd.IntN(63) * (1 - 2*rnd.Int64N(2))
			return u32(u32(u64(b, uint64(micros)), rnd.Uint32()>>rnd.IntN(32)), rnd.Uint32()>>rnd.IntN(32))
		}},
		{"inet", 869, func(b []byte) []byte {
			if rnd.IntN(3) == 0 {
				return u32(append(b, 2, byte(rnd.IntN(33)), 0, 4), rnd.Uint32())
			}
			b = append(b, 3, byte(rnd.IntN(129)), 0, 16)
			for range 8 {
				b = u16(b, uint16(rnd.Uint32())>>(rnd.IntN(2)*16)&uint16(rnd.Int32N(65536)))
			}
			return b
		}},
		{"money", 790, func(b []byte) []byte { return u64(b, rnd.Uint64()>>rnd.IntN(64)) }},
		{"uuid", 2950, func(b []byte) []byte { return u64(u64(b, rnd.Uint64()), rnd.Uint64()) }},
		{"numeric", 1700, func(b []byte) []byte {
			n := rnd.IntN(6)
			scale := rnd.IntN(30)
			b = u16(u16(u16(u16(b, uint16(n)), uint16(rnd.IntN(10)-4)), uint16(rnd.IntN(2)*0x4000)), uint16(scale))
			for range n {
				b = u16(b, uint16(rnd.IntN(10000)))
			}
			return b
		}},
	} {
		for range 250 {
			compare(t, conn, types, "SELECT $1::"+g.typ, [][]byte{g.gen(nil)}, []uint32{g.oid})
		}
	}
	for _, typ := range []string{"numeric(30,10)", "numeric(18,0)", "numeric(40,40)"} {
		for range 150 {
			var b []byte
			b = u16(u16(u16(u16(b, 5), uint16(rnd.IntN(6)-3)), uint16(rnd.IntN(2)*0x4000)), 24)
			for range 5 {
				b = u16(b, uint16(rnd.IntN(10000)))
			}
			if typ == "numeric(40,40)" {
				binary.BigEndian.PutUint16(b[2:], 0xffff)
			}
			compare(t, conn, types, "SELECT $1::"+typ, [][]byte{b}, []uint32{1700})
		}
	}
}
