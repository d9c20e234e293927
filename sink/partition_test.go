package sink

import "testing"

// TestMurmur2 holds the vectors of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, Java says %d", key, got, want)
		}
		if got, want := Partition([]byte(key), 7), (want&0x7fffffff)%7; got != want {
			t.Errorf("Partition(%q, 7) = %d, Java says %d", key, got, want)
		}
	}
	if got := Partition(nil, 7); got != 0 {
		t.Errorf("a null key goes to partition %d, want 0", got)
	}
	if got := Partition([]byte{}, 1); got != 0 {
		t.Errorf("one partition: %d", got)
	}
}
