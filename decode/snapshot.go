package decode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is what pg_current_snapshot() returned: which transactions its statement sees. Its numbers have an epoch in
// front of an XID's 32 bits (https://www.postgresql.org/docs/current/functions-info.html, "Snapshot Components").
// Subtransactions are not listed: visibility is that of the transaction they belong to.
type Snapshot struct {
	Xmin, Xmax uint64   // every transaction below Xmin has ended, none from Xmax on
	Running    []uint64 // those in between that have not, rising
}

// ParseSnapshot reads pg_snapshot's text, xmin:xmax:xip,….
func ParseSnapshot(text string) (Snapshot, error) {
	var s Snapshot
	f := strings.Split(text, ":")
	if len(f) != 3 {
		return s, fmt.Errorf("a snapshot of another form than xmin:xmax:xip: %q", text)
	}
	var err error
	if s.Xmin, err = strconv.ParseUint(f[0], 10, 64); err == nil {
		s.Xmax, err = strconv.ParseUint(f[1], 10, 64)
	}
	for x := range strings.SplitSeq(f[2], ",") {
		if x == "" || err != nil {
			break
		}
		var n uint64
		n, err = strconv.ParseUint(x, 10, 64)
		s.Running = append(s.Running, n)
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("the snapshot %q: %w", text, err)
	}
	return s, nil
}

// String is pg_snapshot's text.
func (s *Snapshot) String() string {
	b := fmt.Appendf(nil, "%d:%d:", s.Xmin, s.Xmax)
	for i, x := range s.Running {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}

// Sees tells whether the snapshot sees a transaction that has committed. An XID has no epoch: it is compared as Postgres
// does, modulo 2^32, so it must be one of the two thousand million around Xmax, as every XID of the stream is.
func (s *Snapshot) Sees(xid uint32) bool {
	if int32(xid-uint32(s.Xmax)) >= 0 {
		return false
	}
	return !slices.ContainsFunc(s.Running, func(x uint64) bool { return uint32(x) == xid })
}
