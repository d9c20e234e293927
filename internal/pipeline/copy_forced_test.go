package pipeline

import (
	"testing"

	"walferry/internal/testbed"
)

// Each of these forces one interleaving of a copy with what others do, and holds the events of each key in their order.

const item = `CREATE TABLE item (id int PRIMARY KEY, v int)`
const items = `INSERT INTO item SELECT i, 0 FROM generate_series(1, 3) i`

// TestCopyWindow: changes at each place of a chunk's window, which begins with noting and ends where its rows are placed.
func TestCopyWindow(t *testing.T) {
	for _, version := range testbed.PostgresVersions() {
		t.Run(version, func(t *testing.T) { copyWindow(t, forcedPG(t, version), "window"+version) })
	}
}

func copyWindow(t *testing.T, pg *testbed.PG, name string) {
	// In progress at S, of which nothing can be seen: what becomes of the row depends on where its transaction commits.
	t.Run("open at S", func(t *testing.T) {
		f := force(t, pg, name+"open", 1<<16, "item", item, items)
		begin, snapshot, read := f.hold("chunk-begin"), f.hold("chunk-snapshot"), f.hold("chunk-read")
		r := f.start()
		begin.wait()
		first, then := f.begin(`UPDATE item SET v = 1 WHERE id = 1`), f.begin(`UPDATE item SET v = 1 WHERE id = 2`)
		begin.release()
		snapshot.wait()
		must(t, first, `COMMIT`) // behind S and H, before the chunk is placed
		snapshot.release()
		read.wait()
		f.delivered(r)
		read.release()
		f.done(r, 1)
		must(t, then, `COMMIT`) // behind the place
		f.delivered(r)
		f.tells("item", map[string]string{"1": "u 1", "2": "r 0 first; u 1", "3": "r 0 last"})
	})

	// Not in S, and its commit is before H, since it is in the WAL and delivered and nobody sees it: its standby does not answer.
	t.Run("delivered before S", func(t *testing.T) {
		f := force(t, pg, name+"unseen", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		begin := f.hold("chunk-begin")
		r := f.start()
		begin.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		f.tells("item", map[string]string{"1": "u 1"})
		begin.release()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1", "2": "r 0 first", "3": "r 0 last"})
		f.standby(false)
		f.goes(waits)
	})

	// The same of a transaction that was delivered before noting began, which therefore knows nothing of it: it is older than the
	// fence, and no snapshot is used that does not see it.
	t.Run("delivered before noting", func(t *testing.T) {
		f := force(t, pg, name+"fence", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		looks := f.hold("copy-look")
		r := f.start()
		looks.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		looks.release()
		f.says(r, "is open since before the copy")
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "r 0 true", "3": "r 0 last"})
	})

	// The same after a restart: what the session before has noted is gone with it.
	t.Run("delivered before a restart", func(t *testing.T) {
		f := force(t, pg, name+"restart", 1<<16, "item", item, items)
		f.standby(true)
		defer f.standby(false)
		begin, read := f.hold("chunk-begin"), f.hold("chunk-read")
		r := f.start()
		begin.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET v = 1 WHERE id = 1`)
		f.delivered(r)
		begin.release()
		read.kill(r)
		f.logged.take()
		r = f.start()
		f.says(r, "is open since before the copy")
		f.tells("item", map[string]string{"1": "u 1"})
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "r 0 true", "3": "r 0 last"})
	})

	// Visible and not yet streamed: what the chunk has read is newer than the stream, and waits for it.
	t.Run("visible before it is delivered", func(t *testing.T) {
		f := force(t, pg, name+"visible", 1<<16, "item", item, items)
		stream := f.throughSluice()
		locked := f.hold("chunk-locked")
		r := f.start()
		locked.wait()
		stream.close()
		f.sql(`UPDATE item SET v = 1 WHERE id = 1`, `DELETE FROM item WHERE id = 2`)
		waits := f.hold("chunk-waits")
		locked.release()
		waits.wait()
		waits.release()
		f.tells("item", nil)
		stream.open()
		f.done(r, 1)
		f.tells("item", map[string]string{"1": "u 1; r 1 first", "2": "d", "3": "r 0 last"})
	})
}
