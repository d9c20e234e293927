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
		r := resolver{}
		ty := r.resolve(l.oid, l.mod, 0)
		t.Run(ty.name+"/"+l.text, func(t *testing.T) {
			var s scratch
			fromBinary, err := ty.bin(&s, ty, nil, unhex(t, l.bin))
			if err != nil {
				t.Fatal(err)
			}
			fromText, err := ty.text(&s, ty, nil, []byte(l.text))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(fromBinary, fromText) {
				t.Fatalf("binary gives %x, text %x", fromBinary, fromText)
			}
			if l.avro != "" && hex.EncodeToString(fromBinary) != l.avro {
				t.Errorf("Avro %x, want %s", fromBinary, l.avro)
			}
			if got := invert(ty, decodePlain(t, ty.avro, fromBinary)); got != l.text && !strings.HasPrefix(l.text, `\000`) && l.oid != 1009 {
				t.Errorf("the inverse is %q, Postgres prints %q", got, l.text)
			}
		})
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
	} {
		rel := &decode.Relation{Schema: "public", Name: "t", Identity: decode.IdentityNothing,
			Columns: []decode.Column{{Name: "v", Type: c.oid, Mod: c.mod}}}
		table, err := Derive(rel, nil, "t", Options{Envelope: EnvelopeRow})
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
