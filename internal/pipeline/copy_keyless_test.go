package pipeline

import (
	"strings"
	"testing"

	"walferry/internal/backfill"
	"walferry/internal/testbed"
)

const keyless = `CREATE TABLE keyless (a int)`
const keylessFull = `ALTER TABLE keyless REPLICA IDENTITY FULL`
const keylessRows = `INSERT INTO keyless SELECT generate_series(1, 3)`

// TestCopyKeyless: what others do at each place of the copy of a table without a key, and what is left of one that is broken off.
func TestCopyKeyless(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) { copyKeyless(t, forcedPG(t, version), "keyless"+version) })
	}
}

func copyKeyless(t *testing.T, pg *testbed.PG, name string) {
	const begun = "t; t; t; "
	one := func(t *testing.T, of string) *forced {
		return force(t, pg, name+of, 20, "keyless", keyless, keylessFull, keylessRows)
	}

	t.Run("changes", func(t *testing.T) {
		f := one(t, "changes")
		look, locked := f.hold("copy-look"), f.hold("whole-locked")
		r := f.start()
		look.wait()
		f.sql(`INSERT INTO keyless VALUES (4)`)
		f.delivered(r)
		look.release()
		locked.wait()
		f.sql(`INSERT INTO keyless VALUES (5)`, `DELETE FROM keyless WHERE a = 1`)
		f.delivered(r) // contained, and published all the same: the truncate event is still to come
		open := f.begin(`INSERT INTO keyless VALUES (6)`, `DELETE FROM keyless WHERE a = 2`)
		taken := f.hold("whole-taken")
		locked.release()
		taken.wait()
		must(t, open, `COMMIT`) // behind the snapshot
		read := f.hold("whole-snapshot")
		taken.release()
		read.wait()
		f.sql(`INSERT INTO keyless VALUES (7)`)
		f.delivered(r)
		read.release()
		f.state(f.done(r, 1)["keyless"], backfill.Done, 1, 4)
		f.tells("keyless", map[string]string{"": "c 4; c 5; d 1; " + begun + "c 6; d 2; c 7; r 2 first; r 3 true; r 4 true; r 5 last"})
	})

	t.Run("delivered and not visible", func(t *testing.T) {
		f := one(t, "unseen")
		f.standby(true)
		defer f.standby(false)
		locked := f.hold("whole-locked")
		r := f.start()
		locked.wait()
		waits := f.blocked("SyncRep", `INSERT INTO keyless VALUES (4)`)
		f.delivered(r) // before the truncate event, so the snapshot must see it
		refused := f.hold("whole-locked")
		locked.release()
		refused.wait()
		refused.release()
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("keyless", map[string]string{"": "c 4; " + begun + "r 1 first; r 2 true; r 3 true; r 4 last"})
	})

	t.Run("delivered and not visible before it began", func(t *testing.T) {
		f := one(t, "fence")
		f.standby(true)
		defer f.standby(false)
		look := f.hold("copy-look")
		r := f.start()
		look.wait()
		waits := f.blocked("SyncRep", `INSERT INTO keyless VALUES (4)`)
		f.delivered(r)
		look.release()
		f.says(r, "is open since before the copy")
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("keyless", map[string]string{"": "c 4; " + begun + "r 1 first; r 2 true; r 3 true; r 4 last"})
	})

	for _, x := range []struct {
		place, want string
		generation  uint32
	}{
		{"whole-locked", begun + "r 1 first; r 2 true; r 3 last", 1},           // nothing has been said of it
		{"whole-taken", begun + "r 1 first; r 2 true; r 3 last", 1},            // the event is in a batch that is not committed
		{"whole-snapshot", begun + begun + "r 1 first; r 2 true; r 3 last", 2}, // it is committed
		{"whole-placed", begun + begun + "r 1 first; r 2 true; r 3 last", 2},   // and a row is in a batch
	} {
		t.Run("killed at "+x.place, func(t *testing.T) {
			f := one(t, "killed"+strings.TrimPrefix(x.place, "whole-"))
			locked, snapshot, placed := f.hold("whole-locked"), f.hold("whole-snapshot"), f.hold("whole-placed")
			taken := f.hold("whole-taken")
			r := f.start()
			locked.wait()
			switch x.place {
			case "whole-locked":
				locked.kill(r)
			case "whole-taken":
				locked.release()
				taken.kill(r)
			default:
				locked.release()
				taken.wait()
				taken.release()
				snapshot.wait()
				f.delivered(r)
				if x.place == "whole-snapshot" {
					snapshot.kill(r)
					break
				}
				snapshot.release()
				placed.kill(r)
			}
			f.nobody()
			r = f.start()
			f.state(f.done(r, 1)["keyless"], backfill.Done, x.generation, 3)
			f.tells("keyless", map[string]string{"": x.want})
		})
	}

	t.Run("connection broken off", func(t *testing.T) {
		f := one(t, "broken")
		snapshot := f.hold("whole-snapshot")
		r := f.start()
		snapshot.wait()
		f.delivered(r)
		f.pg.Exec(testbed.Superuser, `SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE relation = 'keyless'::regclass`)
		snapshot.release()
		f.state(f.done(r, 1)["keyless"], backfill.Done, 2, 3)
		f.tells("keyless", map[string]string{"": begun + begun + "r 1 first; r 2 true; r 3 last"})
	})

	// The rows have been read, and wait for their place: the stream stands before it.
	for _, x := range []struct {
		name, ddl  string
		generation uint32
		rows       int64
		want       string
	}{
		{"truncate", `TRUNCATE keyless; INSERT INTO keyless VALUES (9)`, 1, 0, begun + "t; t; t; c 9"},
		{"alter", `BEGIN; ALTER TABLE keyless ADD b int DEFAULT 7; INSERT INTO keyless VALUES (9); COMMIT`, 2, 4,
			begun + "c 9,7; " + begun + "r 1,7 first_in_data_collection; r 2,7 true; r 3,7 true; r 9,7 last"},
	} {
		t.Run("read: "+x.name, func(t *testing.T) {
			f := force(t, pg, name+"read"+x.name, 1<<10, "keyless, item", keyless, keylessFull, keylessRows, item, items)
			f.also(func(c *Config) { c.Copy.Workers, c.Copy.BufferBytes = 2, 4<<10 })
			stream := f.throughSluice()
			begin, locked := f.hold("chunk-begin"), f.hold("whole-locked")
			r := f.start()
			locked.wait()
			begin.wait()
			f.delivered(r)
			waits := f.hold("chunk-waits")
			stream.close()
			beats := r.Health().Totals.Heartbeats
			begin.release()
			waits.wait() // a heartbeat is asked for, for the sake of the other table, and no other is before it has come
			waits.release()
			f.await("the heartbeat to be written", r, func() bool { return r.Health().Totals.Heartbeats > beats })
			locked.release()
			f.await("the rows to be read", r, func() bool {
				return ask[bool](f.bed, `SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'keyless'::regclass) AND EXISTS (
					SELECT FROM pg_stat_activity WHERE query = 'ROLLBACK' AND usename = $1)`, testbed.Reader)
			})
			f.sql(x.ddl)
			stream.open()
			c := f.done(r, 2)["keyless"]
			f.state(c, backfill.Done, x.generation, x.rows)
			f.tells("keyless", map[string]string{"": x.want})
		})
	}
}
