package sink

// Partition is the partition of a key among n, as Java's default partitioner chooses it: murmur2 of the key's bytes, its sign
// bit cleared, modulo n. Other producers' records of the same key, and joins across topics, depend on it. A null key goes to
// partition 0.
func Partition(key []byte, n int) int32 {
	if key == nil || n <= 1 {
		return 0
	}
	return int32(murmur2(key) & 0x7fffffff % uint32(n))
}

// murmur2 is org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
