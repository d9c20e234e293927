package schema

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"walferry/decode"
)

// A value in both forms, as Postgres 18 sends them under PinnedSettings, and in Avro.
type literal struct {
	oid  uint32
	mod  int32
	bin  string // hex
	text string
	avro string // hex
}

const mod122 = (12<<16 | 2) + 4 // numeric(12,2)

// testTypes are types that a catalog describes.
var testTypes = map[uint32]*decode.Type{
	20000: {OID: 20000, Schema: "public", Name: "mood", Kind: 'e', Category: 'E', HasBinary: true, Labels: []string{"sad", "it's, \"ok\""}},
	20001: {OID: 20001, Schema: "public", Name: "_mood", Kind: 'b', Category: 'A', HasBinary: true, Elem: 20000, Delim: ','},
	20002: {OID: 20002, Schema: "public", Name: "amount", Kind: 'd', HasBinary: true, Base: 1700, BaseMod: (10<<16 | 3) + 4},
	20003: {OID: 20003, Schema: "public", Name: "price", Kind: 'd', HasBinary: true, Base: 20002, BaseMod: -1},
	20004: {OID: 20004, Schema: "public", Name: "citext", Kind: 'b', Category: 'S', HasBinary: true, Extension: "citext"},
	20005: {OID: 20005, Schema: "public", Name: "pair", Kind: 'c', Category: 'C', HasBinary: true,
		Attributes: []decode.Attribute{{Name: "a", Type: 23, Mod: -1}, {Name: "b", Type: 25, Mod: -1}}},
	20006: {OID: 20006, Schema: "public", Name: "_pair", Kind: 'b', Category: 'A', HasBinary: true, Elem: 20005, Delim: ','},
	20007: {OID: 20007, Schema: "public", Name: "nest", Kind: 'c', Category: 'C', HasBinary: true,
		Attributes: []decode.Attribute{{Name: "p", Type: 20005, Mod: -1}, {Name: "l l", Type: 20006, Mod: -1}, {Name: "n", Type: 1700, Mod: mod122},
			{Name: "r", Type: 20008, Mod: -1}}},
	20008: {OID: 20008, Schema: "public", Name: "textrange", Kind: 'r', Category: 'R', HasBinary: true, Subtype: 25},
	20009: {OID: 20009, Schema: "public", Name: "textmultirange", Kind: 'm', Category: 'R', HasBinary: true, Range: 20008},
	20010: {OID: 20010, Schema: "ext", Name: "hstore", Kind: 'b', Category: 'U', HasBinary: true, Extension: "hstore"},
	20011: {OID: 20011, Schema: "ext", Name: "ltree", Kind: 'b', Category: 'U', HasBinary: true, Extension: "ltree"},
	20012: {OID: 20012, Schema: "ext", Name: "lquery", Kind: 'b', Category: 'U', HasBinary: true, Extension: "ltree"},
	20013: {OID: 20013, Schema: "ext", Name: "geometry", Kind: 'b', Category: 'U', HasBinary: true, Extension: "postgis"},
	20014: {OID: 20014, Schema: "ext", Name: "geography", Kind: 'b', Category: 'U', HasBinary: true, Extension: "postgis"},
	20015: {OID: 20015, Schema: "ext", Name: "vector", Kind: 'b', Category: 'U', HasBinary: true, Extension: "vector"},
	20016: {OID: 20016, Schema: "ext", Name: "halfvec", Kind: 'b', Category: 'U', HasBinary: true, Extension: "vector"},
	20017: {OID: 20017, Schema: "ext", Name: "sparsevec", Kind: 'b', Category: 'U', HasBinary: true, Extension: "vector"},
	20018: {OID: 20018, Schema: "ext", Name: "isbn", Kind: 'b', Category: 'U', Extension: "isn"},
	20019: {OID: 20019, Schema: "other", Name: "vector", Kind: 'b', Category: 'U', HasBinary: true, Extension: "other"},
	20020: {OID: 20020, Schema: "public", Name: "_isbn", Kind: 'b', Category: 'A', HasBinary: true, Elem: 20018, Delim: ','},
}

// everyChoice are options under which each value is written in some other way than by default, or several.
var everyChoice = []ColumnOptions{
	{},
	{Numeric: NumericString, Unconstrained: NumericScale, Time: TimePlain, Binary: BinaryBase64, Enum: EnumAvro, Range: RangeRecord},
	{Time: TimeISO, Binary: BinaryHex, Array: ArrayText},
	{Numeric: NumericDouble, Unconstrained: NumericDouble, Time: TimeConnect},
}

func resolveTest(oid uint32, mod int32, opt ColumnOptions) *typ {
	r := resolver{types: testTypes, opt: opt, suffix: true}
	return r.resolve(oid, mod, "test.columns.x")
}

var literals = []literal{
	{16, -1, "01", "t", "01"},
	{16, -1, "00", "f", "00"},
	{21, -1, "8000", "-32768", "ffff03"},
	{23, -1, "7fffffff", "2147483647", "feffffff0f"},
	{20, -1, "8000000000000000", "-9223372036854775808", "ffffffffffffffffff01"},
	{26, -1, "ffffffff", "4294967295", "feffffff1f"},
	{700, -1, "80000000", "-0", "00000080"},
	{700, -1, "00000001", "1e-45", "01000000"},
	{700, -1, "ffc00001", "NaN", "0000c07f"},
	{701, -1, "4002000000000000", "2.25", "0000000000000240"},
	{701, -1, "fff0000000000000", "-Infinity", "000000000000f0ff"},
	{701, -1, "7ff8000000000001", "NaN", "000000000000f87f"},
	{1700, mod122, "0003000100000002" + "000109291964", "12345.65", "0612d685"},
	{1700, mod122, "0000000000000002", "0.00", "0200"},
	{1700, mod122, "000200004000000200010000", "-1.00", "029c"},
	{1700, mod122, "0001ffff0000000200c8", "0.02", "0202"},
	{1700, mod122, "00020000400000020001" + "0af0", "-1.28", "0280"},
	{1700, mod122, "0002000000000002" + "00010af0", "1.28", "040080"},
	{1700, (3<<16 | 0x7fe) + 4, "0002000100000000" + "000926ac", "99900", "0601863c"}, // numeric(3,-2)
	{1700, (2<<16 | 5) + 4, "0002ffff00000005" + "00092328", "0.00099", "0263"},
	{1700, -1, "0001000000000003" + "0001", "1.000", "0a312e303030"},
	{1700, -1, "00000000c0000000", "NaN", "064e614e"},
	{1700, -1, "00000000d0000000", "Infinity", "10496e66696e697479"},
	{1700, -1, "00000000f0000000", "-Infinity", "122d496e66696e697479"},
	{1700, -1, "0002000140000000" + "00020000", "-20000", "0c2d3230303030"},
	{790, -1, "ffffffffffe17b4f", "-$20,000.49", ""},
	{790, -1, "0000000000000005", "$0.05", "0205"},
	{25, -1, "68c3a9", "hé", "0668c3a9"},
	{25, -1, "", "", "00"},
	{1043, 9, "6162", "ab", "046162"},
	{1042, 8, "61622020", "ab  ", "0861622020"},
	{19, -1, "6e", "n", "026e"},
	{18, -1, "00", "", "00"},
	{18, -1, "78", "x", "0278"},
	{18, -1, "ff", `\377`, "085c333737"},
	{1790, -1, "63", "c", "0263"},
	{142, -1, "3c612f3e", "<a/>", "083c612f3e"},
	{114, -1, "7b7d", "{}", "047b7d"},
	{3802, -1, "017b7d", "{}", "047b7d"},
	{4072, -1, "01242e2261" + "22", `$."a"`, "0a242e226122"},
	{17, -1, "00ff5c", `\x00ff5c`, "0600ff5c"},
	{17, -1, "00615c", `\000a\\`, "0600615c"}, // bytea_output escape
	{2950, -1, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", ""},
	{1082, -1, "00000000", "2000-01-01", "9aab01"},
	{1082, -1, "7fffffff", "infinity", "feffffff0f"},
	{1082, -1, "80000000", "-infinity", "ffffffff0f"},
	{1082, -1, "ffda97a7", "4714-11-24 BC", ""},
	{1082, -1, "00000001", "2000-01-02", "9cab01"},
	{1083, -1, "000000141dd76000", "24:00:00", ""},
	{1083, -1, "0000000000000001", "00:00:00.000001", "02"},
	{1266, -1, "000000000000000000007080", "00:00:00-08", ""},
	{1266, -1, "00000000000f4240ffffb1e1", "00:00:01+05:33:19", ""},
	{1114, -1, "0000000000000000", "2000-01-01 00:00:00", ""},
	{1114, -1, "7fffffffffffffff", "infinity", "feffffffffffffffff01"},
	{1114, -1, "8000000000000000", "-infinity", "ffffffffffffffffff01"},
	{1114, -1, "ffffffffffffffff", "1999-12-31 23:59:59.999999", ""},
	{1114, -1, "0000000000000001", "2000-01-01 00:00:00.000001", ""},
	{1184, -1, "0000000000000000", "2000-01-01 00:00:00+00", ""},
	{1186, -1, "00000000000000000000000000000000", "PT0S", "0850543053"},
	{1186, -1, "ffffffffffffffff00000003fffffff3", "P-1Y-1M3DT-0.000001S", ""},
	{1186, -1, "7fffffffffffffff7fffffff7fffffff", "infinity", ""},
	{1560, -1, "00000003a0", "101", "06313031"},
	{1562, -1, "00000000", "", "00"},
	{869, -1, "0220000401020304", "1.2.3.4", "0e312e322e332e34"},
	{869, -1, "021800040a000001", "10.0.0.1/24", ""},
	{869, -1, "0380001000000000000000000000ffff01020304", "::ffff:1.2.3.4", ""},
	{869, -1, "0380001020010db8000000000000000000000001", "2001:db8::1", ""},
	{869, -1, "0300001000000000000000000000000000000000", "::/0", ""},
	{650, -1, "022001040a000001", "10.0.0.1/32", ""},
	{829, -1, "08002b010203", "08:00:2b:01:02:03", ""},
	{774, -1, "08002bfffe010203", "08:00:2b:ff:fe:01:02:03", ""},
	{3220, -1, "00000016b374d848", "16/B374D848", ""},
	{28, -1, "ffffffff", "4294967295", ""},
	{29, -1, "00000007", "7", "0237"},
	{5069, -1, "ffffffffffffffff", "18446744073709551615", ""},
	{27, -1, "0000000a0002", "(10,2)", ""},
	{5038, -1, "00000002" + "000000000000000a" + "0000000000000014" + "000000000000000a" + "000000000000000c", "10:20:10,12", ""},
	{2970, -1, "00000000" + "000000000000000a" + "000000000000000a", "10:10:", ""},
	{3614, -1, "00000001" + "6127" + "00" + "0002" + "c0010002", `'a''':1A,2`, ""},
	{22, -1, "00000001" + "00000000" + "00000015" + "00000002" + "00000000" + "00000002" + "0001" + "00000002" + "fffe", "1 -2", ""},
	{30, -1, "00000001" + "00000000" + "0000001a" + "00000001" + "00000000" + "00000004" + "ffffffff", "4294967295", ""},
	{3615, -1, "00000005" + "0202" + "0203" + "01000063" + "00" + "01" + "08" + "01" + "62" + "00" + "010000" + "6100", "'a' & ( 'b':*A | 'c' )", ""},
	{3615, -1, "00000000", "", "00"},
	{3904, -1, "02" + "00000004" + "00000001" + "00000004" + "00000005", "[1,5)", ""},
	{3904, -1, "01", "empty", ""},
	{3904, -1, "18", "(,)", ""},
	{3910, -1, "12" + "00000008" + "0000000000000000", `["2000-01-01 00:00:00+00",)`, ""},
	{4451, -1, "00000002" + "00000011" + "02" + "00000004" + "00000001" + "00000004" + "00000005" + "00000009" + "12" + "00000004" + "00000009", "{[1,5),[9,)}", ""},
	{3905, -1, "00000001" + "00000001" + "00000f40" + "00000002" + "00000001" + "00000001" + "01" + "ffffffff", "{empty,NULL}", ""},
	{20000, -1, "736164", "sad", ""},
	{20005, -1, "00000002" + "00000017" + "00000004" + "00000001" + "00000019" + "00000003" + "612022", `(1,"a """)`, "02020206612022"},
	{20005, -1, "00000002" + "00000017" + "ffffffff" + "00000019" + "00000000", `(,"")`, "000200"},
	{20006, -1, "00000001" + "00000000" + "00004e25" + "00000001" + "00000001" + "00000018" +
		"00000002" + "00000017" + "ffffffff" + "00000019" + "00000004" + "6e756c6c", `{"(,null)"}`, "020200" + "02086e756c6c" + "00"},
	{20007, -1, "00000004" + "00004e25" + "00000018" + "00000002" + "00000017" + "ffffffff" + "00000019" + "00000004" + "61205c62" +
		"00004e26" + "ffffffff" + "000006a4" + "0000000c" + "0002000000000002" + "00010af0" +
		"00004e28" + "0000000a" + "02" + "00000000" + "00000001" + "5d", `("(,""a \\\\b"")",,1.28,"["""",""]"")")`, ""},
	{20008, -1, "06" + "00000002" + "612c" + "00000001" + "5c", `["a,","\\"]`, ""},
	{20009, -1, "00000001" + "00000006" + "12" + "00000001" + "29", `{[")",)}`, ""},
	{20010, -1, "00000002" + "00000001" + "61" + "ffffffff" + "00000002" + "2262" + "00000001" + "5c", `"a"=>NULL, "\"b"=>"\\"`, "0402610004226202025c00"},
	{20010, -1, "00000000", "", "00"},
	{20011, -1, "01" + "612e62", "a.b", "06612e62"},
	{20012, -1, "01" + "2a2e62", "*.b", ""},
	{20013, -1, "0101000020e6100000000000000000f03f0000000000000040", "0101000020E6100000000000000000F03F0000000000000040", ""},
	{20013, -1, "0000000001" + "3ff0000000000000" + "4000000000000000", "00000000013FF00000000000004000000000000000", ""},
	{20014, -1, "0101000020e6100000000000000000f03f0000000000000040", "0101000020E6100000000000000000F03F0000000000000040", ""},
	{20015, -1, "0003" + "0000" + "3f800000" + "3dcccccd" + "49742400", "[1,0.1,1e+06]", "06" + "0000803f" + "cdcccc3d" + "00247449" + "00"},
	{20016, -1, "0005" + "0000" + "3c00" + "c000" + "7bff" + "0001" + "3555", "[1,-2,65504,5.9604645e-08,0.33325195]", ""},
	{20017, -1, "00000005" + "00000002" + "00000000" + "00000000" + "00000002" + "3fc00000" + "c0000000", "{1:1.5,3:-2}/5", "0a04020600040000c03f000000c000"},
	{20017, -1, "00000003" + "00000000" + "00000000", "{}/3", "060000"},
	{600, -1, "3ff0000000000000" + "c004000000000000", "(1,-2.5)", ""},
	{600, -1, "44b52d02c7e14af6" + "430c6bf526340000", "(9.999999999999999e+22,1e+15)", ""},
	{628, -1, "3ff0000000000000" + "bff0000000000000" + "0000000000000000", "{1,-1,0}", ""},
	{601, -1, "3ff0000000000000" + "3ff0000000000000" + "0000000000000000" + "0000000000000000", "[(1,1),(0,0)]", ""},
	{603, -1, "3ff0000000000000" + "3ff0000000000000" + "0000000000000000" + "8000000000000000", "(1,1),(0,-0)", ""},
	{602, -1, "0100000001" + "3ff0000000000000" + "3fb999999999999a", "((1,0.1))", ""},
	{602, -1, "0000000001" + "3ff0000000000000" + "3f1a36e2eb1c432d", "[(1,0.0001)]", ""},
	{604, -1, "00000001" + "3ff0000000000000" + "3ee4f8b588e368f1", "((1,1e-05))", ""},
	{718, -1, "3ff0000000000000" + "3ff0000000000000" + "7ff0000000000000", "<(1,1),Infinity>", ""},
	{1007, -1, "00000000" + "00000000" + "00000017", "{}", "00"},
	{1007, -1, "00000001" + "00000001" + "00000017" + "00000002" + "00000001" + "00000004" + "00000001" + "ffffffff", "{1,NULL}", "0402020000"},
	{1009, -1, "00000001" + "00000000" + "00000019" + "00000002" + "00000001" + "00000004" + "6e756c6c" + "00000003" + "61222c", `{"null","a\","}`, "0402086e756c6c020661222c00"},
	{1020, -1, "00000001" + "00000000" + "0000025b" + "00000001" + "00000001" + "00000020" +
		"3ff0000000000000" + "3ff0000000000000" + "0000000000000000" + "0000000000000000", "{(1,1),(0,0)}", ""},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return b
}

// TestLiterals: both forms of a value give the same Avro bytes, these are what they should be, and the documented
// inverse turns them into the text again.
func TestLiterals(t *testing.T) {
	seen := map[uint32]bool{}
	for _, l := range literals {
		seen[l.oid] = true
		for _, opt := range everyChoice {
			ty := resolveTest(l.oid, l.mod, opt)
			t.Run(ty.name+"/"+l.text, func(t *testing.T) {
				var s scratch
				fromBinary, err := ty.bin(&s, ty, nil, unhex(t, l.bin))
				fromText, err2 := ty.text(&s, ty, nil, []byte(l.text))
				if err != nil || err2 != nil {
					if f, ok := err.(*fault); !ok || f.remedy == "" || err2 == nil || err2.Error() != f.reason || opt == (ColumnOptions{}) {
						t.Fatalf("%+v: binary %v, text %v", opt, err, err2)
					}
					return
				}
				if !bytes.Equal(fromBinary, fromText) {
					t.Fatalf("%+v: binary gives %x, text %x", opt, fromBinary, fromText)
				}
				if opt == (ColumnOptions{}) && l.avro != "" && hex.EncodeToString(fromBinary) != l.avro {
					t.Errorf("Avro %x, want %s", fromBinary, l.avro)
				}
				lossy := opt.Numeric == NumericDouble || opt.Array == ArrayText
				if got := invert(ty, decodePlain(t, ty.avro, fromBinary)); got != l.text && !strings.HasPrefix(l.text, `\000`) && l.oid != 1009 && !lossy {
					t.Errorf("%+v: the inverse is %q, Postgres prints %q", opt, got, l.text)
				}
			})
		}
	}
	for _, b := range builtins {
		if !seen[b.oid] {
			t.Errorf("%s has no literal here", b.name)
		}
	}
}

// TestFaults: what a type cannot hold, or bytes that are no value, are errors with a way on where there is one.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		oid          uint32
		mod          int32
		form         decode.Kind
		value        string // hex for binary
		says, remedy string
	}{
		{1700, mod122, 'b', "00000000c0000000", "NaN", "numeric: string"},
		{1700, mod122, 't', "NaN", "NaN", "numeric: string"},
		{1700, mod122, 'b', "00000000d0000000", "Infinity", "numeric: string"},
		{1700, mod122, 't', "-Infinity", "Infinity", "numeric: string"},
		{1700, mod122, 't', "1.001", "2 digits after", "start again"},
		{1700, mod122, 'b', "0002000000000003" + "0001000a", "2 digits after", "start again"},
		{1700, mod122, 't', "12345678901", "10 digits before", "start again"},
		{1700, mod122, 'b', "0001000300000002" + "0001", "10 digits before", "start again"},
		{1700, mod122, 'b', "7fff", "length", ""},
		{1700, mod122, 't', "1e5", "not a value", ""},
		{790, -1, 't', "1.234,56 €", "lc_monetary", "exclude"},
		{790, -1, 't', "$12,34.56", "lc_monetary", "exclude"},
		{25, -1, 't', "\xff", "UTF-8", "exclude"},
		{25, -1, 'b', "c3", "UTF-8", "exclude"},
		{3802, -1, 'b', "027b7d", "version", ""},
		{1114, -1, 'b', "7ffca2fec4c82000", "294247", "time: iso"},
		{1114, -1, 't', "294276-12-31 23:59:59.999999", "294247", "time: iso"},
		{1184, -1, 't', "294276-12-31 23:59:59.999999+00", "294247", "time: iso"},
		{1114, -1, 't', "Sat Jan 01 00:00:00 2000", "pinned", ""},
		{1082, -1, 't', "01/02/2000", "pinned", ""},
		{1186, -1, 't', "1 day", "pinned", ""},
		{1007, -1, 't', "{{1},{2}}", "more than one dimension", "array: text"},
		{1007, -1, 't', "[0:0][1:1]={{1}}", "more than one dimension", "array: text"},
		{1007, -1, 't', "[0:1]={1,2}", "lower bound", "array: text"},
		{1007, -1, 'b', "00000002" + "00000000" + "00000017", "more than one dimension", "array: text"},
		{1007, -1, 'b', "00000001" + "00000000" + "00000017" + "00000001" + "00000000" + "00000004" + "00000001", "lower bound", "array: text"},
		{1007, -1, 'b', "00000001" + "00000000" + "00000014" + "00000001" + "00000001", "another type", "start again"},
		{1007, -1, 'b', "00000001" + "00000000" + "00000017" + "7fffffff" + "00000001", "length", ""},
		{1007, -1, 't', `{"1}`, "not a value", ""},
		{1007, -1, 't', `{1,}`, "not a value", ""},
		{2202, -1, 'b', "00000001", "not known", "text mode"},
		{20018, -1, 'b', "00000001", "not known", "text mode"},
		{20019, -1, 'b', "00000001", "not known", "text mode"},
		{20005, -1, 'b', "00000001" + "00000017" + "ffffffff", "another version", "--ddl-trigger"},
		{20005, -1, 'b', "00000002" + "00000014" + "ffffffff" + "00000019" + "ffffffff", "another version", "--ddl-trigger"},
		{20005, -1, 'b', "00000002" + "00000017" + "ffffffff", "length", ""},
		{20005, -1, 't', "(1)", "another version", "--ddl-trigger"},
		{20005, -1, 't', "(1,2,3)", "another version", "--ddl-trigger"},
		{20005, -1, 't', "(1,2", "not a value", ""},
		{3904, -1, 'b', "20", "flags", ""},
		{20013, -1, 'b', "01", "EWKB", ""},
		{20015, -1, 'b', "00030000", "length", ""},
		{20010, -1, 't', `"a"=>`, "not a value", ""},
		{3615, -1, 'b', "00000001" + "0202", "length", ""},
	} {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing,
			Columns: []decode.Column{{Name: "v", Type: c.oid, Mod: c.mod}}}
		table, err := Derive(rel, &decode.Descriptor{Types: testTypes}, "t", Options{Envelope: EnvelopeRow})
		if err != nil {
			t.Fatal(err)
		}
		enc, err := table.Encoder(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		data := []byte(c.value)
		if c.form == decode.Binary {
			data = unhex(t, c.value)
		}
		given := []byte("before")
		out, err := enc.AppendValue(given, &decode.Change{New: decode.Tuple{{Kind: c.form, Data: data}}}, 'c', &Meta{})
		var v *ValueError
		if !errors.As(err, &v) {
			t.Errorf("%d %s: error %v", c.oid, c.value, err)
			continue
		}
		if string(out) != "before" {
			t.Errorf("%d %s: after an error dst is %q", c.oid, c.value, out)
		}
		if v.Table != "public.t" || v.Column != "v" || !strings.Contains(v.Reason, c.says) || !strings.Contains(v.Remedy, c.remedy) ||
			c.remedy == "" && v.Remedy != "" {
			t.Errorf("%d %s: %v", c.oid, c.value, err)
		}
		if stale := strings.Contains(c.says, "another"); v.Stale != stale {
			t.Errorf("%d %s: Stale %v", c.oid, c.value, v.Stale)
		}
		if v.NeedsText != (c.remedy == "text mode") {
			t.Errorf("%d %s: NeedsText %v", c.oid, c.value, v.NeedsText)
		}
	}
}

// TestArrayPairs: the OIDs of arrays in the mapping table are each their own.
func TestArrayPairs(t *testing.T) {
	if len(byOID) != len(builtins) || len(byArray) != len(builtins) {
		t.Fatalf("%d types, %d by OID, %d by array's OID", len(builtins), len(byOID), len(byArray))
	}
}
