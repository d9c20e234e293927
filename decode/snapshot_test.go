package decode

import "testing"

func TestSnapshot(t *testing.T) {
	for _, tt := range []struct {
		text         string
		sees, misses []uint32
	}{
		{"100:100:", []uint32{3, 99}, []uint32{100, 101}},
		{"90:100:90,95", []uint32{89, 91, 96, 99}, []uint32{90, 95, 100}},
		// The second epoch has begun: 4294967290 is before 5.
		{"4294967306:4294967306:", []uint32{9, 4294967295}, []uint32{10, 11}},
		{"4294967290:4294967295:", []uint32{4294967289}, []uint32{2}}, // 2 is of the epoch to come
		{"4294967295:4294967301:4294967295", []uint32{4294967290, 4294967294, 3, 4}, []uint32{4294967295, 5, 6}},
	} {
		s, err := ParseSnapshot(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != tt.text {
			t.Errorf("%s is printed as %s", tt.text, &s)
		}
		for _, x := range tt.sees {
			if !s.Sees(x) {
				t.Errorf("%s does not see %d", tt.text, x)
			}
		}
		for _, x := range tt.misses {
			if s.Sees(x) {
				t.Errorf("%s sees %d", tt.text, x)
			}
		}
	}
	for _, bad := range []string{"", "1:2", "1:2:3:4", "a:2:", "1:b:", "1:2:c", "1:2:3,x"} {
		if _, err := ParseSnapshot(bad); err == nil {
			t.Errorf("%q is taken for a snapshot", bad)
		}
	}
}
