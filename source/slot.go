package source

import (
	"github.com/jackc/pglogrepl"
)

// Slot is a row of pg_replication_slots, as far as walferry needs it.
type Slot struct {
	Exists             bool
	Active             bool
	ActivePID          int32 // of the walsender that holds it, 0 when none does
	Confirmed, Restart pglogrepl.LSN
	WALStatus          string // reserved, extended, unreserved, lost
	InvalidationReason string // 17 and newer; why the slot was invalidated
	Plugin, Database   string
	Temporary          bool
	Failover, TwoPhase bool
	RetainedBytes      int64 // WAL that the slot keeps from being removed
	SafeWALBytes       int64 // WAL that may still be written before the slot is lost; -1 without a limit
}
