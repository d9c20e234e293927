package schema

import (
	"encoding/binary"
	"strconv"
)

// binInet reads family, bits, is_cidr, length, address (network_send) and writes what network_out prints: the length
// of the prefix with cidr always, with inet only where it is not the whole address.
func binInet(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	const inet, inet6 = 2, 3 // PGSQL_AF_INET, PGSQL_AF_INET6
	if len(src) < 4 {
		return dst, errSize
	}
	family, size, cidr, addr := src[0], int(src[1]), src[2] != 0, src[4:]
	start := len(dst)
	switch {
	case family == inet && len(addr) == 4 && src[3] == 4 && size <= 32:
		dst = appendIPv4(dst, addr)
	case family == inet6 && len(addr) == 16 && src[3] == 16 && size <= 128:
		dst = appendIPv6(dst, addr)
	default:
		return dst, errSize
	}
	if cidr || size != 8*len(addr) {
		dst = strconv.AppendInt(append(dst, '/'), int64(size), 10)
	}
	return prefixLength(dst, start), nil
}

func appendIPv4(dst, addr []byte) []byte {
	for i, b := range addr[:4] {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = strconv.AppendUint(dst, uint64(b), 10)
	}
	return dst
}

// appendIPv6 does as inet_net_ntop_ipv6 of src/port/inet_net_ntop.c: the first longest run of zero words becomes ::,
// and an address that embeds an IPv4 one ends with it.
func appendIPv6(dst, addr []byte) []byte {
	var words [8]uint16
	for i := range words {
		words[i] = binary.BigEndian.Uint16(addr[2*i:])
	}
	base, length := -1, 1 // of the best run; one alone is not shortened
	for i := 0; i < 8; i++ {
		run := i
		for run < 8 && words[run] == 0 {
			run++
		}
		if run-i > length {
			base, length = i, run-i
		}
		i = run
	}
	for i := 0; i < 8; i++ {
		if base >= 0 && i >= base && i < base+length {
			if i == base {
				dst = append(dst, ':')
			}
			continue
		}
		if i != 0 {
			dst = append(dst, ':')
		}
		if i == 6 && base == 0 && (length == 6 || length == 7 && words[7] != 1 || length == 5 && words[5] == 0xffff) {
			return appendIPv4(dst, addr[12:])
		}
		dst = strconv.AppendUint(dst, uint64(words[i]), 16)
	}
	if base >= 0 && base+length == 8 {
		dst = append(dst, ':')
	}
	return dst
}

func binMAC(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 6 {
		return dst, errSize
	}
	return appendMAC(dst, src), nil
}

func binMAC8(_ *scratch, _ *typ, dst, src []byte) ([]byte, error) {
	if len(src) != 8 {
		return dst, errSize
	}
	return appendMAC(dst, src), nil
}

func appendMAC(dst, src []byte) []byte {
	dst = appendLong(dst, int64(3*len(src)-1))
	for i, c := range src {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = append(dst, lowerHex[c>>4], lowerHex[c&15])
	}
	return dst
}
