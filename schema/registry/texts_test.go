package registry

import (
	"encoding/base64"
	"testing"
)

// TestCanonicalJSON holds what Jackson writes for a JSON Schema: BigDecimal.toString for numbers (java.math.BigDecimal).
func TestCanonicalJSON(t *testing.T) {
	for _, c := range []struct{ text, want, normal string }{
		{"{ \"type\" : \"object\",\n \"a\": {\"d\": 1, \"c\": [true, null]} }", `{"type":"object","a":{"d":1,"c":[true,null]}}`, `{"a":{"c":[true,null],"d":1},"type":"object"}`},
		{`{"a":1.0,"b":0.10,"c":1e5,"d":1.50E3,"e":-0.0,"f":1e-7,"g":123456789012345678901234567890.5,"h":0.000001,"i":-2.5e-9,"j":10E-1}`,
			`{"a":1.0,"b":0.10,"c":1E+5,"d":1.50E+3,"e":0.0,"f":1E-7,"g":123456789012345678901234567890.5,"h":0.000001,"i":-2.5E-9,"j":1.0}`, ""},
		{" true", "true", "true"},
		{`{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`, `{"a":3,"b":2}`},
		{`"string"`, "", ""}, {`[]`, "", ""}, {`{`, "", ""}, {`{} {}`, "", ""}, {`null`, "", ""},
	} {
		got, err := canonicalJSON(c.text, false)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s\n is   %s, %v\n want %s", c.text, got, err, c.want)
		}
		if got, _ := canonicalJSON(c.text, true); c.normal != "" && got != c.normal {
			t.Errorf("%s normalized\n is   %s\n want %s", c.text, got, c.normal)
		}
	}
}

func TestProtobufTokens(t *testing.T) {
	for text, ok := range map[string]bool{
		"syntax = \"proto3\";\npackage shop; // a comment\nmessage Order { int64 id = 1; /* { */ map<string, int32> m = 2 [deprecated = true]; }": true,
		"message A { option (my.opt) = { s: 'it\\'s }' }; }":               true,
		"import public \"other.proto\";":                                   true,
		"edition = \"2023\"; enum E { A = 0; reserved 2 to 9, -1, 0x1F; }": true,
		"":                                 false,
		"// nothing":                       false,
		"message A { int64 id = 1;":        false,
		"message A { int64 id = 1; ]":      false,
		"message A } {":                    false,
		"message A { string s = 1 }\x00":   false,
		"message A { option x = \"open; }": false,
		"/* never":                         false,
		"{\"type\":\"object\"}":            false,
		"message A":                        false,
		"nonsense":                         false,
	} {
		if err := checkProtobuf(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if !sameText(TypeProtobuf, "message A{int32 a=1;}", "// x\nmessage A {\n  int32 a = 1;\n}\n") || sameText(TypeProtobuf, "message A{int32 a=1;}", "message A{int32 b=1;}") {
		t.Error("spaces and comments do not make another schema, names do")
	}
	encode := base64.StdEncoding.EncodeToString
	for text, ok := range map[string]bool{
		encode([]byte("\x0a\x07a.proto\x22\x03\x0a\x01A\x62\x06proto3")): true, // name, message A, syntax
		encode([]byte("\x0a\x07a.proto\x22\x30\x0a\x01A")):               false,
		encode([]byte("\x12\x04shop")):                                   false, // a package alone
		encode([]byte("\x0a\x02\xff\xfe")):                               false,
		encode([]byte{0x69, 0xb7}):                                       false,
		encode(nil):                                                      false,
		"abcd":                                                           false,
	} {
		if isDescriptor(text) != ok {
			t.Errorf("%q is a descriptor: %v", text, !ok)
		}
	}
}
