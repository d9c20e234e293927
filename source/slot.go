package source

import (
	"context"
	"errors"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Slot is a row of pg_replication_slots, as far as walferry needs it.
type Slot struct {
	Exists             bool
	Active             bool
	ActivePID          int32 // of the walsender that holds it, 0 when none does
	Confirmed, Restart pglogrepl.LSN
	WALStatus          string // reserved, extended, unreserved, lost; "" when the slot keeps no WAL
	InvalidationReason string // 17 and newer: why the slot was invalidated
	Plugin, Database   string
	Temporary          bool
	Failover, TwoPhase bool
	RetainedBytes      int64 // WAL that the slot keeps from being removed
	SafeWALBytes       int64 // WAL that may still be written before the slot is lost; -1 without a limit
}

// Lost returns why nothing can be read from the slot any more, or "".
func (s *Slot) Lost() string {
	switch {
	case s.InvalidationReason != "":
		return "invalidated: " + s.InvalidationReason
	case s.WALStatus == "lost":
		return "its WAL was removed"
	}
	return ""
}

// SlotInfo returns the slot as it is now; Exists is false when there is none.
func (c *Catalog) SlotInfo(ctx context.Context) (Slot, error) {
	var s Slot
	err := c.on(ctx, &c.ask, "look at slot", func(conn *pgx.Conn) error {
		var active, temporary, failover, twoPhase *bool
		var confirmed, restart *string
		// Through jsonb a column that a version lacks is null instead of an error.
		err := conn.QueryRow(ctx, `SELECT (j->>'active')::bool, coalesce((j->>'active_pid')::int, 0), j->>'confirmed_flush_lsn', j->>'restart_lsn',
			coalesce(j->>'wal_status', ''), coalesce(j->>'invalidation_reason', ''), coalesce(j->>'plugin', ''), coalesce(j->>'database', ''),
			(j->>'temporary')::bool, (j->>'failover')::bool, (j->>'two_phase')::bool,
			coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), (j->>'restart_lsn')::pg_lsn)::int8, 0), coalesce((j->>'safe_wal_size')::int8, -1)
			FROM (SELECT to_jsonb(r) AS j FROM pg_replication_slots r WHERE slot_name = $1) AS s`, c.cfg.Slot).
			Scan(&active, &s.ActivePID, &confirmed, &restart, &s.WALStatus, &s.InvalidationReason, &s.Plugin, &s.Database,
				&temporary, &failover, &twoPhase, &s.RetainedBytes, &s.SafeWALBytes)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		s.Exists = true
		is := func(b *bool) bool { return b != nil && *b }
		s.Active, s.Temporary, s.Failover, s.TwoPhase = is(active), is(temporary), is(failover), is(twoPhase)
		for _, l := range []struct {
			dst  *pglogrepl.LSN
			text *string
		}{{&s.Confirmed, confirmed}, {&s.Restart, restart}} {
			if l.text != nil { // null: the slot is physical, or lost
				if *l.dst, err = pglogrepl.ParseLSN(*l.text); err != nil {
					return &GarbageError{"position " + *l.text + " of a slot"}
				}
			}
		}
		return nil
	})
	if err != nil {
		return Slot{}, err
	}
	return s, nil
}

// DropSlot drops the slot, which must not be in use. A slot that does not exist is no error.
func (c *Catalog) DropSlot(ctx context.Context) error {
	err := c.on(ctx, &c.ask, "drop slot", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", c.cfg.Slot)
		return err
	})
	if _, missing := errors.AsType[*SlotMissingError](err); missing {
		return nil
	}
	return err
}
