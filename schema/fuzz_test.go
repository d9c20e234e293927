package schema

import (
	"bytes"
	"testing"
)

// fuzzTypes are what FuzzBinary and FuzzText choose from: each built-in type, its array, described ones, some with
// modifiers; under each choice of options.
func fuzzTypes() []*typ {
	var types []*typ
	seen := map[string]bool{}
	add := func(oid uint32, mod int32) {
		for _, opt := range everyChoice {
			if t := resolveTest(oid, mod, opt); !seen[t.name+t.avro] {
				seen[t.name+t.avro] = true
				types = append(types, t)
			}
		}
	}
	for _, b := range builtins {
		add(b.oid, -1)
		add(b.array, -1)
	}
	for _, m := range [][2]uint32{{12, 2}, {1, 0}, {40, 40}, {1000, 500}, {3, 0x7fe}, {2, 5}} {
		add(oidNumeric, int32(m[0]<<16|m[1])+4)
	}
	for _, b := range builtinRanges {
		for _, oid := range []uint32{b.oid, b.array, b.multi} {
			add(oid, -1)
		}
	}
	for oid := uint32(20000); testTypes[oid] != nil; oid++ {
		add(oid, -1)
	}
	return types
}

func seed(f *testing.F, types []*typ, data func(l literal) []byte) {
	for _, l := range literals {
		name := resolveTest(l.oid, l.mod, ColumnOptions{}).name
		for i, t := range types {
			if t.name == name {
				f.Add(uint16(i), data(l))
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
	f.Fuzz(func(t *testing.T, which uint16, data []byte) {
		ty := types[int(which)%len(types)]
		if ty.bin == nil {
			return
		}
		check(t, ty, ty.bin, data)
	})
}

func FuzzText(f *testing.F) {
	types := fuzzTypes()
	seed(f, types, func(l literal) []byte { return []byte(l.text) })
	f.Fuzz(func(t *testing.T, which uint16, data []byte) {
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
