package schema

import (
	"bytes"
	"testing"
)

// fuzzTypes are what FuzzBinary and FuzzText choose from: each built-in type, its array, and some with modifiers.
func fuzzTypes() []*typ {
	r := resolver{}
	var types []*typ
	for _, b := range builtins {
		types = append(types, r.resolve(b.oid, -1, 0), r.resolve(b.array, -1, 0))
	}
	for _, m := range [][2]uint32{{12, 2}, {1, 0}, {40, 40}, {1000, 500}, {3, 0x7fe}, {2, 5}} {
		types = append(types, r.resolve(oidNumeric, int32(m[0]<<16|m[1])+4, 0))
	}
	iso := resolver{opt: ColumnOptions{Time: TimeISO}}
	return append(types, iso.resolve(oidDate, -1, 0), iso.resolve(oidTimestamp, -1, 0), iso.resolve(oidTimestampTZ, -1, 0))
}

func seed(f *testing.F, types []*typ, data func(l literal) []byte) {
	for _, l := range literals {
		r := resolver{}
		name := r.resolve(l.oid, l.mod, 0).name
		for i, t := range types {
			if t.name == name {
				f.Add(byte(i), data(l))
			}
		}
	}
}

// check holds what both forms promise: dst is only appended to, what is written is Avro of the type, and the text that
// the documented inverse makes of it is read as the same bytes.
func check(t *testing.T, ty *typ, form valueFunc, data []byte) {
	var s scratch
	given := bytes.Clone(data)
	out, err := form(&s, ty, []byte("before"), data)
	if !bytes.Equal(given, data) {
		t.Fatalf("%s: the value was changed", ty.name)
	}
	if err != nil {
		if f, ok := err.(*fault); !ok || f.reason == "" {
			t.Fatalf("%s: error %#v", ty.name, err)
		}
		return
	}
	if !bytes.HasPrefix(out, []byte("before")) {
		t.Fatalf("%s: dst was changed", ty.name)
	}
	out = out[len("before"):]
	v := decodePlain(t, ty.avro, out)
	inverse := invert(ty, v)
	again, err := ty.text(&s, ty, nil, []byte(inverse))
	if err != nil {
		t.Fatalf("%s: %x is written as %x, whose inverse %q is refused: %v", ty.name, data, out, inverse, err)
	}
	if !bytes.Equal(again, out) {
		t.Fatalf("%s: %x is written as %x, whose inverse %q is written as %x", ty.name, data, out, inverse, again)
	}
}

func FuzzBinary(f *testing.F) {
	types := fuzzTypes()
	seed(f, types, func(l literal) []byte { return unhex(f, l.bin) })
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		ty := types[int(which)%len(types)]
		check(t, ty, ty.bin, data)
	})
}

func FuzzText(f *testing.F) {
	types := fuzzTypes()
	seed(f, types, func(l literal) []byte { return []byte(l.text) })
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		ty := types[int(which)%len(types)]
		check(t, ty, ty.text, data)
	})
}

// FuzzSanitize: what comes out is a name that goavro takes.
func FuzzSanitize(f *testing.F) {
	f.Add("größe")
	f.Add("9")
	f.Fuzz(func(t *testing.T, name string) {
		if _, err := Compile(record("ns."+SanitizeName(name), name, []string{
			`{"name":` + quote(SanitizeName(name)) + `,"type":"int","doc":` + quote(name) + `}`})); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	})
}
