package schema_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"walferry/decode"
	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/source"
)

func TestMain(m *testing.M) { os.Exit(testbed.Main(m)) }

// hostile settings are put on database and role; a stream pins its own, and events must not feel them.
var hostile = []string{
	"DateStyle='German, DMY'", "IntervalStyle='postgres_verbose'", "extra_float_digits=-15", "bytea_output='escape'",
	"TimeZone='Asia/Kathmandu'", "xmlbinary='hex'", "quote_all_identifiers=on", "standard_conforming_strings=off", "search_path=app,public",
}

// valuesOf are SQL literals of a type: edges first of all.
type valuesOf struct {
	typ    string
	values []string
	since  int // major version that has them, 0 for every one
}

var values = []valuesOf{
	{"bool", []string{"t", "f"}, 0},
	{"int2", []string{"0", "-1", "32767", "-32768"}, 0},
	{"int4", []string{"0", "-1", "2147483647", "-2147483648"}, 0},
	{"int8", []string{"0", "63", "64", "-64", "-65", "9223372036854775807", "-9223372036854775808"}, 0},
	{"oid", []string{"0", "2147483647", "2147483648", "4294967295"}, 0},
	{"float4", []string{"0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1", "123456.7", "1e15", "1.17549435e-38"}, 0},
	{"float8", []string{"0", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1", "1e15", "1e23",
		"123456789012345", "2.2250738585072011e-308"}, 0},
	{"numeric(12,2)", []string{"0", "-0.01", "0.01", "1.28", "-1.28", "327.67", "327.68", "-327.68", "-327.69", "9999999999.99", "-9999999999.99", "10000", "100000000", "NaN"}, 0},
	{"numeric(1,0)", []string{"0", "9", "-9"}, 0},
	{"numeric(5,5)", []string{"0.00001", "-0.99999", "0.1"}, 0},
	{"numeric(38,17)", []string{"123456789012345678901.12345678901234567", "-999999999999999999999.99999999999999999", "0.00000000000000001"}, 0},
	{"numeric(1000,500)", []string{"1e499", "-1e-500", "123.456", "NaN"}, 0},
	{"numeric", []string{"0", "0.0", "0.00", "-0.10", "1e4", "1e-4", "10000.0001", "NaN", "1e131071", "1e-16383", "-123456789.000000000000000000", "1234.50000"}, 0},
	{"money", []string{"0", "-0.01", "1234567.89", "92233720368547758.07", "-92233720368547758.08", "999.99", "1000"}, 0},
	{"text", []string{"", "a", "héllo ✓ 🐘", `\x00`, "\n\t'\""}, 0},
	{"varchar(10)", []string{"", "abc", "  a  "}, 0},
	{"char(5)", []string{"", "ab", "é", "     ", "null"}, 0},
	{"bpchar", []string{"", "ab   ", "  "}, 0},
	{"name", []string{"", "tbl", "ß🐘\"' ."}, 0},
	{`"char"`, []string{"", "x", "\\"}, 0},
	{"refcursor", []string{"c"}, 0},
	{"xml", []string{"<a b=\"c\">é</a>", `<?xml version="1.0" encoding="UTF-8" standalone="yes"?><x/>`, `<?xml version="1.1"?><x/>`, `<?xml version="1.0" encoding="ISO-8859-1"?><x>é</x>`, "bare é"}, 0},
	{"json", []string{"{}", `{"a" :  1e3, "a": 2}`, "null"}, 0},
	{"jsonb", []string{"{}", `{"a" :  1e3, "a": 2, "é": "\u00e9"}`, "null", "123456789012345678901234567890.10"}, 0},
	{"jsonpath", []string{"$", `strict $."a b"[*] ? (@ > 1)`}, 0},
	{"bytea", []string{"", `\x`, `\x00ff5c27`, `\x5c7861`}, 0},
	{"uuid", []string{"00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}, 0},
	{"date", []string{"1970-01-01", "2000-01-01", "2000-02-29", "1999-12-31", "0001-01-01", "0001-12-31 BC", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity", "1582-10-10", "0005-02-29 BC", "0001-01-01 BC", "9999-12-31", "10000-01-01"}, 0},
	{"time", []string{"00:00", "24:00", "23:59:59.999999", "01:02:03.1", "00:00:00.000001"}, 0},
	{"time(0)", []string{"12:34:56.7", "23:59:59.9"}, 0},
	{"timetz", []string{"00:00+00", "24:00-15:59:59", "01:02:03.4+15:59:59", "12:00-08", "12:00+05:30", "12:00-00:00:01", "23:59:59.999999+00:00:59"}, 0},
	{"timestamp", []string{"1970-01-01", "2000-01-01", "1999-12-31 23:59:59.999999", "4714-11-24 BC", "0001-01-01 BC", "294247-01-10 04:00:54.775806", "294247-01-10 04:00:54.775807", "294276-12-31 23:59:59.999999", "infinity", "-infinity", "2024-06-01 12:34:56.7"}, 0},
	{"timestamptz", []string{"1970-01-01 00:00+00", "1999-12-31 23:59:59.999999+00", "4714-11-24 00:00+00 BC", "0001-12-31 23:59:59.999999+00 BC", "294247-01-10 04:00:54.775806+00",
		"294247-01-10 04:00:54.775807+00", "294276-12-31 23:59:59.999999+00", "1890-01-01 00:00 Europe/Amsterdam", "infinity", "-infinity", "2024-06-01 12:34:56.7-07:30"}, 0},
	{"interval", []string{"0", "1 year 2 mons 3 days 04:05:06.789", "-1 year 2 mons -3 days 04:05:06", "1 mon -1 us", "-13 mons", "178956970 years 7 mons", "-178956970 years -8 mons",
		"2147483647 days", "-2147483648 days", "2147483647:59:59.999999", "-2147483647:59:59.999999", "00:00:00.1", "-00:00:00.000001", "-1 day +02:03"}, 0},
	{"interval day to second(3)", []string{"1 day 02:03:04.5678", "-0.0005 s"}, 0},
	{"bit(3)", []string{"101", "000"}, 0},
	{"bit(8)", []string{"10000001"}, 0},
	{"varbit", []string{"", "1", "000000001"}, 0},
	{"inet", []string{"1.2.3.4", "1.2.3.4/24", "0.0.0.0/0", "::", "::1", "::/0", "::ffff:1.2.3.4", "::1.2.3.4", "::1:2", "1::", "1:0:0:2::3", "2001:db8:0:0:1:0:0:1", "fe80::1/64", "::ffff:0:1", "0:0:0:0:0:1:2:3", "1:2:3:4:5:6:7:8", "0:1::"}, 0},
	{"cidr", []string{"10.0.0.0/8", "1.2.3.4", "2001:db8::/32", "::/0", "::ffff:1.2.3.4/128"}, 0},
	{"macaddr", []string{"08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"}, 0},
	{"macaddr8", []string{"08:00:2b:01:02:03:04:05"}, 0},
	{"pg_lsn", []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"}, 0},
	{"xid", []string{"0", "2147483648", "4294967295"}, 0},
	{"cid", []string{"0", "4294967295"}, 0},
	{"xid8", []string{"0", "9223372036854775808", "18446744073709551615"}, 0},
	{"tid", []string{"(0,0)", "(2147483648,32768)", "(4294967295,65535)"}, 0},
	{"pg_snapshot", []string{"10:20:10,14,15", "1:1:"}, 0},
	{"txid_snapshot", []string{"10:20:10,14,15"}, 0},
	{"tsvector", []string{"", "a:1A,2B,3C,4 b 'it''s':5 '\\\\'", "'é x'"}, 0},
	{"point", []string{"(1,2)", "(NaN,Infinity)", "(-0,1e-5)", "(0.0001,123456789012345)", "(1e15,1e23)", "(2e-44,9007199254740993)"}, 0},
	{"line", []string{"{1,-1,0.5}"}, 0},
	{"lseg", []string{"[(1,2),(3,4)]"}, 0},
	{"box", []string{"(3,4),(1,2)"}, 0},
	{"path", []string{"((1,2),(3,4))", "[(1,2)]"}, 0},
	{"polygon", []string{"((1,2),(3,4),(5,6.5))"}, 0},
	{"circle", []string{"<(1,2),3>"}, 0},
	{"mood", []string{"sad", "it's, \"ok\"", "ぁ"}, 0},
	{"spelled", []string{"", "NULL", "null", " x ", "{a,b}", "(a)", "1"}, 0},
	{"citext", []string{"Ab", ""}, 0},
	{"positive", []string{"1"}, 0},
	{"price", []string{"12.50", "-1"}, 0},
	{"ints", []string{"{1,2,NULL}", "{{1},{2}}", "[0:0]={1}"}, 0},
	{"lists", []string{`{"{1,2}",NULL,"{}"}`, "{}"}, 0},
	{"moods", []string{`{sad,NULL,"it's, \"ok\""}`}, 0},
	{"dmood", []string{"sad", "ぁ"}, 0},
	{"padded", []string{"", "é"}, 0},
	{"digits", []string{"1.50", "-Infinity"}, 0},
	{"moment", []string{"2024-06-01 12:34:56.7-07:30", "infinity", "294276-12-31 23:59:59+00"}, 0},
	{"words", []string{"k=>NULL"}, 0},
	{"span", []string{"[1,5)", "empty"}, 0},
	{"spans", []string{"{[1,5),[7,)}", "{}"}, 0},
	{"int4[]", []string{"{}", "{1,NULL,-3}"}, 0},
	{"bool[]", []string{"{t,f,NULL}"}, 0},
	{"text[]", []string{"{}", `{"",NULL,"NULL","null",a,"a b","{}",",","\\","\"","é"}`}, 0},
	{"numeric(12,2)[]", []string{"{1.25,NULL,-3}"}, 0},
	{"timestamptz[]", []string{`{"2024-01-01 00:00+00",infinity}`}, 0},
	{"bytea[]", []string{`{"\\x00ff",NULL}`}, 0},
	{"interval[]", []string{`{1 day,-1 mon}`}, 0},
	{"box[]", []string{"{(3,4),(1,2);(1,1),(0,0)}"}, 0},
	{"point[]", []string{`{"(1,2)","(3,4)"}`}, 0},
	{"mood[]", []string{`{sad,NULL,"it's, \"ok\""}`}, 0},
	{"price[]", []string{"{1,2.5}"}, 0},
	{"ints[]", []string{`{"{1,2}",NULL,"{}"}`}, 0},
	{"jsonb[]", []string{`{"{\"a\": [1, null]}","null"}`}, 0},
	{"uuid[]", []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"}, 0},
	{"int4[]", []string{"[0:1]={1,2}", "{{1,2},{3,NULL}}", "[-2:-1][3:3]={{1},{2}}", "{{{1},{2}},{{3},{4}}}"}, 0},
	{"text[]", []string{`{{"",NULL},{"NULL","a,b"}}`}, 0},
	{"numeric", []string{"Infinity", "-Infinity"}, 0},
	{"interval", []string{"infinity", "-infinity"}, 17},
	{"numeric(3,-2)", []string{"0", "99900", "-100"}, 15},
	{"numeric(2,5)", []string{"0.00099", "-0.00001"}, 15},
	{"numeric(1000,-1000)", []string{"1e1999", "0"}, 15},
	{"numeric(1000,1000)", []string{"1e-1000", "-0.1"}, 15},

	{"int2vector", []string{"1 2 -3", "", "32767"}, 0},
	{"oidvector", []string{"1 4294967295", ""}, 0},
	{"tsquery", []string{"", "a", "'it''s \\\\ é':*AB", "a & b | !c", "(a | b) & c", "!(a & b)", "!!a", "a <-> b <-> c", "a <-> (b <-> c)", "a <2> b",
		"(a <16384> b) <-> (c & !(d|e))", "!(a <-> b) & x:D", "(a | b) <-> c", "a & (b & (c & d))", "!a <-> !b"}, 0},
	{"int4range", []string{"[1,5)", "empty", "(,)", "[,5)", "[-2147483648,)"}, 0},
	{"int8range", []string{"[1,9223372036854775807)"}, 0},
	{"numrange", []string{"[1.50,2.0]", "(NaN,)", "[-Infinity,Infinity]"}, 0},
	{"tsrange", []string{`["2000-01-01 00:00:00",infinity)`, `(-infinity,"0044-03-15 BC"]`, `[294270-01-01,)`}, 0},
	{"tstzrange", []string{`["2000-01-01 00:00:00+02",)`}, 0},
	{"daterange", []string{"[2000-01-01,2000-01-02]", "(,infinity)", "(,infinity]"}, 0},
	{"floatrange", []string{"[-0,1e23)", "[NaN,NaN]"}, 0},
	{"textrange", []string{`["",a]`, `[" a\"b\\\\","c,()[]"]`, `[a,é)`}, 0},
	{"arrayrange", []string{`["{1,2}","{3,NULL}")`}, 0},
	{"pairrange", []string{`["(1,\"a b\")","(2,)"]`, "(,)"}, 0},
	{"moodrange", []string{`[sad,"it's, \"ok\""]`}, 0},
	{"pricerange", []string{"[1,2.5)", "empty", "(,)", "[1,1]"}, 0},
	{"pricemultirange", []string{"{[1,2.5),[3,)}", "{}"}, 0},
	{"spanrange", []string{`["[1,5)","[2,)")`, "empty"}, 0},
	{"pairmultirange", []string{`{["(1,\"a b\")","(2,)"]}`, "{}"}, 0},
	{"int4multirange", []string{"{}", "{[1,2),[5,)}", "{(,)}"}, 0},
	{"tstzmultirange", []string{`{["2000-01-01 00:00+00","2001-01-01 00:00+00"),["2002-01-01 00:00+00",infinity)}`}, 0},
	{"textmultirange", []string{`{[a,"b)]\"}"),["c, ","d"]}`, `{["",""]}`}, 0},
	{"nummultirange", []string{"{[1.0,2.00)}"}, 0},
	{"int4range[]", []string{`{"[1,2)",empty,NULL}`}, 0},

	{"pair", []string{`(1,"a b")`, `(,)`, `(-5,"")`, `(1,"q""\\\\,()")`, "(1,null)", "(1,\"\n\té\")"}, 0},
	{"pair[]", []string{`{"(1,a)",NULL,"(,\"x y\")"}`, "{}"}, 0},
	{"pairdomain", []string{"(1,x)"}, 0},
	{"rowtype", []string{"(1,2024-02-29,)"}, 0},
	{"changed", []string{"(1,new)"}, 0},
	{"emptied", []string{"()"}, 0},
	{"deep", []string{`("{1,NULL}",1.50,sad,"{[1,2)}","{""(1,\\""a b\\"")"",NULL}","{2.5,NULL}","(3,)","[1,2)","(4,x)","{""(1,y)""}",empty,"{""{1}"",NULL}","é    ")`,
		`(,,,,,,,,,,,,)`, `({},-1,ぁ,{},{},{},"(,)",empty,"(,)",{},"(,)",{},)`}, 0},
	{"nest", []string{`("(1,\"a b\")","{\"(2,c)\",NULL}","[1,5)","""k""=>""v"", ""n""=>NULL",1.50,"a(b","2000-01-01 00:00:00+00",sad)`, `(,,,,,,,)`,
		`("(,)",{},empty,"",-0.01,"",infinity,)`}, 0},

	{"hstore", []string{"", "a=>1, b=>NULL", `"k \" \\\\ ,=>"=>"v\"", ""=>"", "é"=>"NULL", aa=>NULL`}, 0},
	{"ltree", []string{"Top.Science", ""}, 0},
	{"lquery", []string{"*.a{1,2}.b*@|c"}, 0},
	{"ltxtquery", []string{"Europe & Russia*@ & !Transportation"}, 0},
	{"ean13", []string{"9780306406157"}, 0},
	{"isbn", []string{"0306406152"}, 0},
	{"isbn13", []string{"9780306406157"}, 0},
	{"ismn", []string{"979-0-060-11561-5"}, 0},
	{"issn", []string{"1436-4522"}, 0},
	{"upc", []string{"220356483481"}, 0},
	{"regclass", []string{"pg_class", "app.odd", "4294967295"}, 0},
	{"regtype", []string{"numeric", "app.mood2"}, 0},
	{"regproc", []string{"now"}, 0},
	{"regprocedure", []string{"abs(int4)"}, 0},
	{"regrole", []string{"postgres"}, 0},
	{"regnamespace", []string{"pg_catalog"}, 0},
	{"regconfig", []string{"simple"}, 0},
	{"aclitem", []string{"postgres=r/postgres"}, 0},
	{"cube", []string{"(1,2),(3,4)"}, 0},
}

// onPostgis and onVector are values of extensions that servers of the test can be without.
var (
	onPostgis = []valuesOf{
		{"geometry", []string{"POINT(1 2)", "SRID=4326;POINT Z (1 2 3)", "POINT EMPTY", "SRID=3857;POLYGON((0 0,1 0,1 1,0 0))",
			"GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1e23 -0))"}, 0},
		{"geometry(Point,4326)", []string{"SRID=4326;POINT(1 2)"}, 0},
		{"geography", []string{"POINT(8.5 47.4)", "SRID=4326;LINESTRING(0 0,1 1)"}, 0},
		{"box2d", []string{"BOX(1 2,3 4)"}, 0},
	}
	onVector = []valuesOf{
		{"vector", []string{"[1,2.5,-3]", "[0.1,1e-45,3.4028235e38,123456.7,1e15]"}, 0},
		{"halfvec", []string{"[1,2.5,-65504,0.0000001,0.33325195]"}, 0},
		{"sparsevec", []string{"{1:1.5,3:-2}/5", "{}/3"}, 0},
	}
)

// optionSets are all choices of all options. What is lossy has no inverse.
var optionSets = []struct {
	schema.ColumnOptions
	lossy bool
}{
	{},
	{ColumnOptions: schema.ColumnOptions{Numeric: schema.NumericString, Unconstrained: schema.NumericScale, Time: schema.TimePlain,
		Binary: schema.BinaryBase64, Enum: schema.EnumAvro, Range: schema.RangeRecord}},
	{ColumnOptions: schema.ColumnOptions{Time: schema.TimeISO, Binary: schema.BinaryHex, Array: schema.ArrayText}},
	{ColumnOptions: schema.ColumnOptions{Numeric: schema.NumericString, Time: schema.TimeISO, Range: schema.RangeRecord, Binary: schema.BinaryHex}},
	{ColumnOptions: schema.ColumnOptions{Numeric: schema.NumericDouble, Unconstrained: schema.NumericDouble, Time: schema.TimeConnect}, lossy: true},
}

// TestServerValues writes edge values and random ones of every type into tables, and takes each row three ways: off the
// stream in binary, off the stream as text, and by COPY in binary. Under every option the three give the same Avro bytes,
// or the same error and another option the bytes; and from these the documented inverse makes what Postgres prints.
func TestServerValues(t *testing.T) {
	const installed = "" // on the machine: distributions have PostGIS for theirs
	for _, version := range append(testbed.PostgresVersions(), installed) {
		t.Run(cmp.Or(version, "installed"), func(t *testing.T) {
			if testing.Short() {
				t.Skip("starts a server; run without -short")
			}
			b := newTypesBed(t, version)
			if version == installed {
				if b.pg.Extension("postgis", "Debian: apt-get install postgresql-postgis") {
					b.write(onPostgis)
				}
			} else {
				b.write(values)
				b.writeRandom()
				b.writeNumerics()
				b.writeWide()
				b.checkStale()
			}
			if b.pg.Extension("vector", "https://github.com/pgvector/pgvector") {
				b.write(onVector)
			}
			if b.tables > 0 {
				b.compare()
			}
		})
	}
}

type typesBed struct {
	t       *testing.T
	pg      *testbed.PG
	major   int
	writer  *pgx.Conn // settings pinned, but with our schemas in the path
	reader  *pgx.Conn // as walferry's
	catalog *source.Catalog
	tables  int
	rnd     *rand.Rand
}

func newTypesBed(t *testing.T, version string) *typesBed {
	pg := testbed.Postgres(t, version)
	b := &typesBed{t: t, pg: pg}
	for _, s := range append(hostile, b.locale()...) {
		pg.Exec(testbed.Superuser, "ALTER DATABASE "+testbed.Shop+" SET "+s, "ALTER ROLE "+testbed.Superuser+" SET "+s)
	}
	b.writer, b.reader = pinned(t, pg, "public,app"), pinned(t, pg, "pg_catalog")
	if err := b.reader.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&b.major); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"citext", "hstore", "ltree", "isn", "cube"} {
		if !pg.Extension(name, "contrib") {
			t.Fatalf("the server has no extension %s", name)
		}
	}
	for _, sql := range []string{
		"CREATE SCHEMA app",
		"CREATE TYPE app.mood2 AS ENUM ('x')",
		"CREATE TABLE app.odd ()",
		`CREATE TYPE mood AS ENUM ('sad', 'it''s, "ok"', 'ぁ', '2nd')`,
		"CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)",
		"CREATE DOMAIN amount AS numeric(10,2)",
		"CREATE DOMAIN price AS amount",
		"CREATE DOMAIN ints AS int4[]",
		"CREATE DOMAIN lists AS ints[]",
		"CREATE DOMAIN moods AS mood[]",
		"CREATE DOMAIN dmood AS mood",
		"CREATE DOMAIN padded AS char(5)",
		"CREATE DOMAIN digits AS numeric",
		"CREATE DOMAIN moment AS timestamptz(0)",
		"CREATE DOMAIN words AS hstore",
		"CREATE DOMAIN span AS int4range",
		"CREATE DOMAIN spans AS int4multirange",
		`CREATE TYPE spelled AS ENUM ('', 'NULL', 'null', ' x ', '{a,b}', '(a)', '1', '_1')`,
		"CREATE TYPE pair AS (a int4, b text)",
		"CREATE DOMAIN pairdomain AS pair",
		"CREATE TYPE changed AS (a int4, gone date)",
		"ALTER TYPE changed DROP ATTRIBUTE gone, ADD ATTRIBUTE b text",
		"CREATE TABLE rowtype (a int4, b date, gone int4, c text)",
		"ALTER TABLE rowtype DROP COLUMN gone",
		`CREATE TYPE nest AS (p pair, l pair[], r int4range, h hstore, n numeric(12,2), "a-b 1" text, t timestamptz, m mood)`,
		"CREATE TYPE floatrange AS RANGE (subtype = float8)",
		"CREATE TYPE textrange AS RANGE (subtype = text)",
		"CREATE TYPE arrayrange AS RANGE (subtype = int4[])",
		"CREATE TYPE pairrange AS RANGE (subtype = pair)",
		"CREATE TYPE moodrange AS RANGE (subtype = mood)",
		"CREATE TYPE pricerange AS RANGE (subtype = price)",
		"CREATE TYPE spanrange AS RANGE (subtype = span)",
		"CREATE TYPE emptied AS (gone int4)",
		"ALTER TYPE emptied DROP ATTRIBUTE gone",
		`CREATE TYPE deep AS (l ints, d price, e dmood, m int4multirange, x pair[], i price[], p pairdomain, s span, c changed, cs changed[], r pricerange,
			ll lists, "pad ded" padded)`,
		`CREATE FUNCTION rnd() RETURNS text VOLATILE LANGUAGE sql AS $$ SELECT coalesce(string_agg((ARRAY['a', 'B', '"', E'\\\\', '(', ')', '[', ']', ',', ' ',
			'{', '}', 'é', '🐘', '=>', '''', 'null', '.', ':', ';'])[1 + floor(random() * 20)::int], ''), '') FROM generate_series(1, (random() * 6)::int) $$`,
		`CREATE FUNCTION rnd_query(depth int) RETURNS tsquery VOLATILE LANGUAGE plpgsql AS $$ DECLARE choice int := floor(random() * 5 * sign(depth)); BEGIN
			CASE choice
				WHEN 1 THEN RETURN rnd_query(depth - 1) && rnd_query(depth - 1);
				WHEN 2 THEN RETURN rnd_query(depth - 1) || rnd_query(depth - 1);
				WHEN 3 THEN RETURN !! rnd_query(depth - 1);
				WHEN 4 THEN RETURN tsquery_phrase(rnd_query(depth - 1), rnd_query(depth - 1), (random() * 2)::int);
				ELSE RETURN ('''' || replace(replace(rnd(), '''', ''''''), E'\\\\', E'\\\\\\\\') || 'z'':' || (ARRAY['', '*', 'A', '*BD'])[1 + floor(random() * 4)::int])::tsquery;
			END CASE; END $$`,
	} {
		b.exec(sql)
	}
	var err error
	b.catalog, err = source.OpenCatalog(t.Context(), source.Config{DSN: pg.DSN(testbed.Superuser), Slot: "s", Publication: "everything", AllTables: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.catalog.Close)
	b.exec("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	b.exec("CREATE PUBLICATION everything FOR ALL TABLES")
	b.exec("CREATE PUBLICATION known")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b.rnd = rand.New(rand.NewPCG(seed, 0))
	b.exec(fmt.Sprintf("SELECT setseed(%f)", b.rnd.Float64()))
	return b
}

// locale is a hostile lc_monetary, where the machine has one.
func (b *typesBed) locale() []string {
	var name *string
	err := b.pg.Connect(testbed.Superuser).QueryRow(b.t.Context(),
		"SELECT min(collname) FROM pg_collation WHERE collprovider = 'c' AND collname ~ '^.._..[.]utf8$'").Scan(&name)
	if err != nil {
		b.t.Fatal(err)
	}
	if name == nil {
		return nil
	}
	return []string{"lc_monetary='" + *name + "'"}
}

func pinned(t *testing.T, pg *testbed.PG, searchPath string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(pg.DSN(testbed.Superuser))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range schema.PinnedSettings {
		cfg.RuntimeParams[k] = v
	}
	cfg.RuntimeParams["search_path"] = searchPath
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server ends right after
	return conn
}

func (b *typesBed) exec(sql string) {
	b.t.Helper()
	if _, err := b.writer.PgConn().Exec(b.t.Context(), sql).ReadAll(); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// table makes a table of a type, and of its array where the type is none.
func (b *typesBed) table(typ string) (name string, array bool) {
	b.t.Helper()
	b.tables++
	name = fmt.Sprintf("t_%d", b.tables)
	b.exec(fmt.Sprintf("CREATE TABLE %s (id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v %s)", name, typ))
	err := b.writer.QueryRow(b.t.Context(), "SELECT typcategory <> 'A' FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid WHERE attrelid = $1::regclass AND attname = 'v'",
		name).Scan(&array)
	if err != nil {
		b.t.Fatal(err)
	}
	if array {
		b.exec(fmt.Sprintf("ALTER TABLE %s ADD a %s[]", name, typ))
	}
	b.publish(name)
	return name, array
}

// publish puts a table into the publication known, unless it has a type without a known binary form: a stream in binary
// ends at the first that has none.
func (b *typesBed) publish(table string) {
	b.t.Helper()
	rel := &decode.Relation{Schema: "public", Name: table, Identity: decode.IdentityNothing}
	rows, err := b.writer.Query(b.t.Context(), "SELECT attname, atttypid, atttypmod, attrelid FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum", table)
	if err != nil {
		b.t.Fatal(err)
	}
	var c decode.Column
	if _, err := pgx.ForEachRow(rows, []any{&c.Name, &c.Type, &c.Mod, &rel.ID}, func() error {
		rel.Columns = append(rel.Columns, c)
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	st, err := schema.Derive(rel, b.describe(rel.ID), "t", schema.Options{Envelope: schema.EnvelopeRow, Collisions: schema.CollisionsSuffix})
	if err != nil {
		b.t.Fatal(err)
	}
	if !st.NeedsText {
		b.exec("ALTER PUBLICATION known ADD TABLE " + table)
	}
}

func (b *typesBed) describe(oid uint32) *decode.Descriptor {
	b.t.Helper()
	desc, err := b.catalog.Describe(b.t.Context(), oid)
	if err != nil {
		b.t.Fatal(err)
	}
	return desc
}

func (b *typesBed) fillArrays(table string) {
	b.t.Helper()
	b.exec(fmt.Sprintf("INSERT INTO %[1]s (a) SELECT array_append(array_agg(v ORDER BY id), NULL) FROM %[1]s UNION ALL SELECT '{}'", table))
	b.exec(fmt.Sprintf("INSERT INTO %[1]s (a) SELECT ARRAY[v, NULL] FROM %[1]s WHERE v IS NOT NULL ORDER BY id LIMIT 20", table))
}

func (b *typesBed) write(list []valuesOf) {
	for _, v := range list {
		if v.since > b.major {
			continue
		}
		name, array := b.table(v.typ)
		var rows []string
		for _, literal := range v.values {
			rows = append(rows, fmt.Sprintf("(CAST(%s AS %s))", quoteSQL(literal), v.typ))
		}
		b.exec(fmt.Sprintf("INSERT INTO %s (v) VALUES %s", name, strings.Join(rows, ", ")))
		if array {
			b.fillArrays(name)
		}
	}
}

func quoteSQL(s string) string {
	return "E'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(s) + "'"
}

// writeRandom writes random values: of SQL's making, and bytes for types whose every pattern, or nearly, is a value.
func (b *typesBed) writeRandom() {
	for _, v := range [][2]string{
		{"pair", "ROW((random() * 1e9)::int4, rnd())::pair"},
		{"nest", `ROW(ROW(NULL, rnd()), ARRAY[ROW(1, rnd())::pair, NULL, ROW(NULL, NULL)::pair], int4range(1, (random() * 100)::int4 + 1, '[]'),
			hstore(ARRAY[rnd(), rnd() || 'x'], ARRAY[rnd(), NULL]), random() * 1e9, rnd(), to_timestamp(random() * 1e10), 'sad')::nest`},
		{"textrange", "textrange(least(a COLLATE \"C\", b), NULLIF(greatest(a COLLATE \"C\", b), a), '[)') FROM (SELECT rnd() AS a, rnd() || '~' AS b FROM generate_series(1, 100)) s"},
		{"numrange", "numrange((random() * 1e5)::numeric(20,9), (random() * 1e9 + 1e5)::numeric(20,4), (ARRAY['[]', '[)', '(]', '()'])[1 + floor(random() * 4)::int4])"},
		{"int8multirange", "int8multirange(int8range((random() * 1e5)::int8, 100001), int8range(200000, (random() * 1e15)::int8 + 200000, '(]'))"},
		{"tstzrange", "tstzrange(to_timestamp(random() * 1e9), to_timestamp(random() * 1e10 + 1e9))"},
		{"hstore", "hstore(array_agg(k || n), array_agg(CASE WHEN random() > 0.2 THEN rnd() END)) FROM (SELECT rnd() AS k, n, n % 50 AS g FROM generate_series(1, 200) n) s GROUP BY g"},
		{"tsquery", "rnd_query(4)"},
		{"tsvector", "array_to_tsvector(ARRAY[rnd() || 'z', rnd() || 'y'])"},
		{"text", "rnd()"},
		{"bytea", "convert_to(rnd(), 'UTF8')"},
		{`"char"`, `(n - 129)::"char" FROM generate_series(1, 256) n`},
		{"mood", "(enum_range(NULL::mood))[1 + floor(random() * 4)::int4]"},
	} {
		name, array := b.table(v[0])
		from := v[1]
		if !strings.Contains(from, " FROM ") {
			from += " FROM generate_series(1, 100)"
		}
		b.exec("INSERT INTO " + name + " (v) SELECT " + from)
		if array {
			b.fillArrays(name)
		}
	}
	rnd := b.rnd
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
		gen func(b []byte) []byte
	}{
		{"point", func(b []byte) []byte { return float(float(b)) }},
		{"float8", float},
		{"float4", func(b []byte) []byte { return u32(b, rnd.Uint32()) }},
		{"int8", func(b []byte) []byte { return u64(b, rnd.Uint64()>>rnd.IntN(64)) }},
		{"date", func(b []byte) []byte { return u32(b, uint32(rnd.Int32N(2145031949+2451545)-2451545)) }},
		{"timestamp", micros},
		{"timestamptz", micros},
		{"time", func(b []byte) []byte { return u64(b, uint64(rnd.Int64N(86400e6+1))) }},
		{"timetz", func(b []byte) []byte {
			return u32(u64(b, uint64(rnd.Int64N(86400e6+1))), uint32(rnd.Int32N(2*57600-1)-57599))
		}},
		{"interval", func(b []byte) []byte {
			// Before 15 the hours printed are an int32.
			micros := rnd.Int64N(7.7e18) >> rnd.IntN(63) * (1 - 2*rnd.Int64N(2))
			return u32(u32(u64(b, uint64(micros)), rnd.Uint32()>>rnd.IntN(32)), rnd.Uint32()>>rnd.IntN(32))
		}},
		{"inet", func(b []byte) []byte {
			if rnd.IntN(3) == 0 {
				return u32(append(b, 2, byte(rnd.IntN(33)), 0, 4), rnd.Uint32())
			}
			b = append(b, 3, byte(rnd.IntN(129)), 0, 16)
			for range 8 {
				b = u16(b, uint16(rnd.Uint32())>>(rnd.IntN(2)*16)&uint16(rnd.Int32N(65536)))
			}
			return b
		}},
		{"money", func(b []byte) []byte { return u64(b, rnd.Uint64()>>rnd.IntN(64)) }},
		{"uuid", func(b []byte) []byte { return u64(u64(b, rnd.Uint64()), rnd.Uint64()) }},
		{"numeric", func(b []byte) []byte {
			n := rnd.IntN(6)
			scale := rnd.IntN(30)
			b = u16(u16(u16(u16(b, uint16(n)), uint16(rnd.IntN(10)-4)), uint16(rnd.IntN(2)*0x4000)), uint16(scale))
			for range n {
				b = u16(b, uint16(rnd.IntN(10000)))
			}
			return b
		}},
	} {
		name, _ := b.table(g.typ)
		in := []byte("PGCOPY\n\xff\r\n\x00" + strings.Repeat("\x00", 8))
		for range 200 {
			value := g.gen(nil)
			in = append(u32(u16(in, 1), uint32(len(value))), value...)
		}
		if _, err := b.writer.PgConn().CopyFrom(b.t.Context(), bytes.NewReader(u16(in, 0xffff)), "COPY "+name+" (v) FROM STDIN (FORMAT binary)"); err != nil {
			b.t.Fatalf("%s: %v", g.typ, err)
		}
		b.fillArrays(name)
	}
}

// writeNumerics takes numeric(p,s) at the ends of what the server allows, and at random between.
func (b *typesBed) writeNumerics() {
	least, most := 0, 0 // of the scale; most 0 stands for the precision
	if b.major >= 15 {
		least, most = -1000, 1000
	}
	var columns, names, low, high []string
	add := func(p, s int) {
		name := fmt.Sprintf("c%d", len(columns))
		// The greatest value: p digits that end at the scale.
		value := strings.Repeat("9", p) + fmt.Sprintf("e%d", -s)
		columns = append(columns, fmt.Sprintf("%s numeric(%d,%d)", name, p, s))
		names, low, high = append(names, name), append(low, "-"+value), append(high, value)
	}
	for _, p := range []int{1, 2, 18, 19, 38, 1000} {
		add(p, 0)
		add(p, p)
		if b.major >= 15 {
			add(p, least)
			add(p, most)
		}
	}
	for range 40 {
		p := 1 + b.rnd.IntN(1000)
		if b.rnd.IntN(2) == 0 {
			p = 1 + b.rnd.IntN(40)
		}
		top := most
		if top == 0 {
			top = p
		}
		add(p, least+b.rnd.IntN(top-least+1))
	}
	b.tables++
	table := fmt.Sprintf("t_%d", b.tables)
	b.exec(fmt.Sprintf("CREATE TABLE %s (id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, %s)", table, strings.Join(columns, ", ")))
	b.publish(table)
	if _, err := b.writer.Exec(b.t.Context(), "SELECT 'Infinity'::numeric(12,2)"); err == nil {
		b.t.Error("numeric(12,2) holds infinity: docs/types.md says that it cannot")
	}
	list := strings.Join(names, ", ")
	scaled := func(f string) string {
		var v []string
		for _, h := range high {
			v = append(v, strings.ReplaceAll(f, "?", h))
		}
		return strings.Join(v, ", ")
	}
	b.exec(fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s), (%s), (%s)", table, list, strings.Join(low, ", "), strings.Join(high, ", "), scaled("0")))
	b.exec(fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM generate_series(1, 20)", table, list, scaled("trunc(random()::numeric * random()::numeric * 1e6) * ? / 1e6")))
	b.exec(fmt.Sprintf("INSERT INTO %s (%s) SELECT %s", table, list, scaled("'NaN'::numeric")))
}

// writeWide makes a table of as many columns as Postgres allows, with names of 63 bytes that are hard to say.
func (b *typesBed) writeWide() {
	b.tables++
	var columns []string
	for i := range 1599 { // and id
		name := fmt.Sprintf("%d", i) + []string{"🐘-.\"' é", "select", "ß.ß", "record"}[i%4]
		for len(name) < 60 {
			name += "ü"
		}
		columns = append(columns, pgx.Identifier{name}.Sanitize()+" bool DEFAULT "+[]string{"true", "NULL"}[i%2])
	}
	table := fmt.Sprintf("t_%d", b.tables)
	b.exec(fmt.Sprintf("CREATE TABLE %s (id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, %s)", table, strings.Join(columns, ", ")))
	b.publish(table)
	b.exec("INSERT INTO " + table + " DEFAULT VALUES")
}

// checkStale changes types while rows are written, under a description of before and one of now: each value that is of
// another version of its type says so. Of a composite, text shows the number of attributes, binary their types too.
func (b *typesBed) checkStale() {
	t := b.t
	t.Helper()
	for _, sql := range []string{
		"CREATE TYPE growing AS (a int4)", "CREATE TYPE turning AS (a int4)", "CREATE TYPE label AS ENUM ('x')",
		"CREATE TABLE s_growing (v growing)", "CREATE TABLE s_turning (v turning)", "CREATE TABLE s_label (v label)",
		"ALTER PUBLICATION known ADD TABLE s_growing, s_turning, s_label",
		"INSERT INTO s_growing VALUES (ROW(1))", "INSERT INTO s_turning VALUES (ROW(1))", "INSERT INTO s_label VALUES ('x')",
	} {
		b.exec(sql)
	}
	opt := schema.Options{Envelope: schema.EnvelopeRow, ColumnOptions: schema.ColumnOptions{Enum: schema.EnumAvro}}
	first := b.stream("known", "s_", true)
	before := map[string]*decode.Descriptor{}
	for name, r := range first {
		before[name] = b.describe(r.rel.ID)
	}
	for _, sql := range []string{
		"ALTER TYPE growing ADD ATTRIBUTE b text", "ALTER TYPE turning DROP ATTRIBUTE a", "ALTER TYPE turning ADD ATTRIBUTE b text",
		"ALTER TYPE label RENAME VALUE 'x' TO 'y'",
		"INSERT INTO s_growing VALUES (ROW(2, 'b'))", "INSERT INTO s_turning VALUES (ROW('b'))", "INSERT INTO s_label VALUES ('y')",
	} {
		b.exec(sql)
	}
	for _, binary := range []bool{true, false} {
		for name, r := range b.stream("known", "s_", binary) {
			if len(r.rows) != 2 {
				t.Fatalf("%d rows of %s", len(r.rows), name)
			}
			for version, desc := range []*decode.Descriptor{before[name], b.describe(r.rel.ID)} {
				st, err := schema.Derive(r.rel, desc, "t", opt)
				if err != nil {
					t.Fatal(err)
				}
				enc, err := st.Encoder(1, 1)
				if err != nil {
					t.Fatal(err)
				}
				for i, row := range r.rows {
					_, err := enc.AppendValue(nil, &decode.Change{New: row}, 'c', &schema.Meta{})
					var v *schema.ValueError
					stale := errors.As(err, &v) && v.Stale
					// Text mode cannot tell one attribute from another one in its place.
					unseen := name == "s_turning" && !binary
					if stale != (version != i) && !unseen || !stale && err != nil && !unseen {
						t.Errorf("%s, binary %t, row %d under description %d: %v", name, binary, i, version, err)
					}
				}
			}
		}
	}
}

// rowsOf are the rows of a table in the order they were written.
type rowsOf struct {
	rel  *decode.Relation
	rows []decode.Tuple
}

// stream reads what the slot has of a publication, of tables whose names begin with prefix.
func (b *typesBed) stream(publication, prefix string, binary bool) map[string]*rowsOf {
	b.t.Helper()
	rows, err := b.reader.Query(b.t.Context(), `SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL,
		'proto_version', '1', 'publication_names', $1, 'binary', $2)`, publication, fmt.Sprint(binary))
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]*rowsOf{}
	d := decode.NewDecoder()
	var lsn string
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&lsn, &data}, func() error {
		at, err := pglogrepl.ParseLSN(lsn)
		if err != nil {
			return err
		}
		e, err := d.Decode(at, data)
		// PostGIS fills a table of its own, too.
		if c, ok := e.(*decode.Change); ok && err == nil && strings.HasPrefix(c.Relation.Name, prefix) {
			r := out[c.Relation.Name]
			if r == nil {
				r = &rowsOf{rel: c.Relation}
				out[c.Relation.Name] = r
			}
			r.rows = append(r.rows, cloneTuple(c.New))
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func cloneTuple(t decode.Tuple) decode.Tuple {
	out := make(decode.Tuple, len(t))
	for i, d := range t {
		out[i] = decode.Datum{Kind: d.Kind, Data: bytes.Clone(d.Data)}
	}
	return out
}

// copy reads the table by COPY; columns of kind Text as the text that their output function prints.
func (b *typesBed) copy(rel *decode.Relation, kinds []decode.Kind) []decode.Tuple {
	b.t.Helper()
	var columns []string
	for i, c := range rel.Columns {
		name := pgx.Identifier{c.Name}.Sanitize()
		if kinds[i] == decode.Text {
			// The output function of refcursor is declared for text.
			var out, cast string
			// That of an enum or range takes no domain over one.
			if err := b.reader.QueryRow(b.t.Context(), `SELECT t.typoutput::regproc::text, CASE WHEN a.typtype = 'b' AND t.typtype = 'b' AND a.oid <> t.oid
				THEN '::' || a.oid::regtype WHEN t.typtype = 'd' AND a.typtype = 'p' THEN '::' || t.typbasetype::regtype ELSE '' END FROM pg_type t JOIN pg_proc p ON p.oid = t.typoutput JOIN pg_type a ON a.oid = p.proargtypes[0]
				WHERE t.oid = $1`, c.Type).Scan(&out, &cast); err != nil {
				b.t.Fatal(err)
			}
			name = "textin(" + out + "(" + name + cast + "))"
		}
		columns = append(columns, name)
	}
	r := decode.NewCopyReader(kinds, 64<<20)
	sink := &copySink{r: r}
	sql := fmt.Sprintf("COPY (SELECT %s FROM %s ORDER BY id) TO STDOUT (FORMAT binary)", strings.Join(columns, ", "), pgx.Identifier{rel.Schema, rel.Name}.Sanitize())
	if _, err := b.reader.PgConn().CopyTo(b.t.Context(), sink, sql); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	if err := r.Close(); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return sink.rows
}

type copySink struct {
	r    *decode.CopyReader
	rows []decode.Tuple
}

func (s *copySink) Write(message []byte) (int, error) {
	s.r.Feed(message)
	for {
		t, err := s.r.Next()
		if err != nil {
			return 0, err
		}
		if t == nil {
			return len(message), nil
		}
		s.rows = append(s.rows, cloneTuple(t))
	}
}

func kindsOf(n int, k decode.Kind) []decode.Kind {
	return slices.Repeat([]decode.Kind{k}, n)
}

func (b *typesBed) compare() {
	t := b.t
	texts := b.stream("everything", "t_", false)
	if len(texts) != b.tables {
		t.Fatalf("the stream has rows of %d tables, not of %d", len(texts), b.tables)
	}
	binaries := b.stream("known", "t_", true)
	for name, text := range texts {
		if copied := b.copy(text.rel, kindsOf(len(text.rel.Columns), decode.Text)); !sameTuples(copied, text.rows) {
			t.Errorf("%s: COPY of the text that is printed is not the stream's", name)
		}
		forms := map[string][]decode.Tuple{"text": text.rows}
		if r := binaries[name]; r != nil {
			forms["binary"] = r.rows
			forms["copy"] = b.copy(r.rel, kindsOf(len(r.rel.Columns), decode.Binary))
			if !sameTuples(forms["copy"], forms["binary"]) {
				t.Errorf("%s: COPY in binary is not the stream in binary", name)
			}
		}
		b.compareForms(text.rel, b.describe(text.rel.ID), forms)
	}
}

func sameTuples(a, b []decode.Tuple) bool {
	return slices.EqualFunc(a, b, func(a, b decode.Tuple) bool {
		return slices.EqualFunc(a, b, func(a, b decode.Datum) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) })
	})
}

func (b *typesBed) compareForms(rel *decode.Relation, desc *decode.Descriptor, forms map[string][]decode.Tuple) {
	t := b.t
	written := make([]bool, len(forms["text"])) // by some options
	seen := map[string]bool{}
	for _, set := range optionSets {
		opt := schema.Options{Envelope: schema.EnvelopeRow, Collisions: schema.CollisionsSuffix, ColumnOptions: set.ColumnOptions}
		st, err := schema.Derive(rel, desc, "shop."+rel.String(), opt)
		if err != nil {
			t.Fatal(err)
		}
		if seen[st.Value] {
			continue
		}
		seen[st.Value] = true
		enc, err := st.Encoder(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range forms["text"] {
			want, wantErr := enc.AppendValue(nil, &decode.Change{New: row}, 'c', &schema.Meta{})
			for form, rows := range forms {
				got, err := enc.AppendValue(nil, &decode.Change{New: rows[i]}, 'c', &schema.Meta{})
				if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
					t.Errorf("%s %+v, row %d: text %q\n%s: %x, %v\ntext: %x, %v", rel.Columns[1].Name, set, i, texts(row), form, got, err, want, wantErr)
				}
			}
			if wantErr != nil {
				var v *schema.ValueError
				if !errors.As(wantErr, &v) || v.Remedy == "" {
					t.Errorf("%+v, row %q: %v", set, texts(row), wantErr)
				}
				continue
			}
			written[i] = true
			if set.lossy {
				continue
			}
			for c, got := range schema.Invert(t, st, want[schema.WireSize:]) {
				d := row[c]
				if b.major < 16 && strings.HasPrefix(st.TypeName(c), `"char"`) {
					d.Data = octal(d.Data)
				}
				if (got == nil) != (d.Kind == decode.Null) || got != nil && *got != string(d.Data) {
					shown := "null"
					if got != nil {
						shown = *got
					}
					t.Errorf("%s (%+v): the inverse is %q, Postgres prints %q", st.TypeName(c), set, shown, d.Data)
				}
			}
		}
	}
	for i, ok := range written {
		if !ok {
			t.Errorf("%s: no option writes row %q", rel, texts(forms["text"][i]))
		}
	}
}

// octal is a "char", or an array of them, as 16 and later print it: what is beyond ASCII is one byte before.
func octal(printed []byte) []byte {
	var out []byte
	for _, c := range printed {
		switch {
		case c < 0x80:
			out = append(out, c)
		case printed[0] == '{':
			out = fmt.Appendf(out, `"\\%o"`, c)
		default:
			out = fmt.Appendf(out, `\%o`, c)
		}
	}
	return out
}

func texts(row decode.Tuple) (out []string) {
	for _, d := range row {
		out = append(out, string(d.Data[:min(len(d.Data), 200)]))
	}
	return out[:min(len(out), 20)]
}
