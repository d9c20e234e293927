package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"walferry/internal/backfill"
)

// Rows of 1,000 bytes with a value that the stream leaves out of an update which does not touch it, and without: each row is a chunk.
const (
	large     = `CREATE TABLE item (id int PRIMARY KEY, big text, v int)`
	largeOut  = `ALTER TABLE item ALTER big SET STORAGE EXTERNAL`
	largeRows = `INSERT INTO item SELECT i * 10, repeat('b', 3000), 0 FROM generate_series(1, 4) i`
	plainRows = `INSERT INTO item SELECT i * 10, repeat('b', 1000), 0 FROM generate_series(1, 4) i`
)

// TestCopyMoved: rows that move out of what is being read and into it, before and behind it, with a large value left alone and
// without one; and large values in a chunk's window.
func TestCopyMoved(t *testing.T) {
	pg := forcedPG(t, "")
	for _, toast := range []bool{false, true} {
		name, fill, size := "movedplain", plainRows, 1500
		if toast {
			name, fill, size = "movedtoast", largeRows, 4500
		}
		b := fmt.Sprintf("b…%d", map[bool]int{false: 1000, true: 3000}[toast])
		c := func(read string) string { // the event of a row that came to a key, and, if it lacks its large value, how that is brought
			if !toast {
				return "c " + b + ",0"
			}
			return "c ?,0; r " + b + ",0 " + read
		}
		end := map[bool]string{false: "last", true: "true"}[toast] // of the last range, behind which a key is still to be read
		// Two chunks have their place, that of row 30 is to be read or has been read, row 40 is unread.
		for _, x := range []struct {
			name, at, sql string
			want          map[string]string
		}{
			// From before what is read to behind it: the chunk that reads it sees it.
			{"on, before it is read", "chunk-begin", `UPDATE item SET id = 35 WHERE id = 20`,
				map[string]string{"20": "r b,0 true; d", "30": "r b,0 true", "35": map[bool]string{false: "c b,0; r b,0 true", true: "c ?,0; r b,0 true"}[toast], "40": "r b,0 last"}},
			// The same into the chunk that has been read: it does not have the row at its new key.
			{"into what was read", "chunk-read", `UPDATE item SET id = 25 WHERE id = 20`,
				map[string]string{"20": "r b,0 true; d", "25": c("last"), "30": "r b,0 true", "40": "r b,0 " + end}},
			// Out of the chunk that has been read, to behind it.
			{"out, behind", "chunk-read", `UPDATE item SET id = 35 WHERE id = 30`,
				map[string]string{"20": "r b,0 true", "30": "d", "35": map[bool]string{false: "c b,0; r b,0 true", true: "c ?,0; r b,0 true"}[toast], "40": "r b,0 last"}},
			// And to before it: nobody reads there any more.
			{"out, before", "chunk-read", `UPDATE item SET id = 5 WHERE id = 30`,
				map[string]string{"5": c("last"), "20": "r b,0 true", "30": "d", "40": "r b,0 " + end}},
			// Behind the greatest key that there was: nobody reads there at all.
			{"beyond the end", "chunk-read", `UPDATE item SET id = 50 WHERE id = 40`,
				map[string]string{"20": "r b,0 true", "30": "r b,0 true", "40": "d", "50": c("last")}},
			// From what nobody has read yet to what everybody has.
			{"back", "chunk-begin", `UPDATE item SET id = 5 WHERE id = 40`,
				map[string]string{"5": c("last"), "20": "r b,0 true", "30": "r b,0 true", "40": "d"}}, // nobody knew that it is the last
			// Away and back, and to a key that another row has left.
			{"there and back", "chunk-read", `UPDATE item SET id = 5 WHERE id = 30; UPDATE item SET id = 30 WHERE id = 5`,
				map[string]string{"5": map[bool]string{false: "c b,0; d", true: "c ?,0; d"}[toast], "20": "r b,0 true", "30": "d; " + c("last"), "40": "r b,0 " + end}},
			{"gone at once", "chunk-read", `UPDATE item SET id = 5 WHERE id = 30; DELETE FROM item WHERE id = 5`,
				map[string]string{"5": map[bool]string{false: "c b,0; d", true: "c ?,0; d"}[toast], "20": "r b,0 true", "30": "d", "40": "r b,0 last"}},
			// A value that was left alone is the chunk's, all others are the stream's.
			{"changed in its place", "chunk-read", `UPDATE item SET v = 1 WHERE id = 30; UPDATE item SET v = 2 WHERE id = 30`,
				map[string]string{"20": "r b,0 true", "30": map[bool]string{false: "u b,1; u b,2", true: "u ?,1; u ?,2; r b,2 true"}[toast], "40": "r b,0 last"}},
			// It was changed itself since.
			{"changed itself", "chunk-read", `UPDATE item SET big = repeat('n', length(big)) WHERE id = 30; UPDATE item SET v = 2 WHERE id = 30`,
				map[string]string{"20": "r b,0 true", "30": map[bool]string{false: "u n,0; u n,2", true: "u n,0; u ?,2"}[toast], "40": "r b,0 last"}},
		} {
			t.Run(fmt.Sprintf("%s toast=%t", x.name, toast), func(t *testing.T) {
				f := force(t, pg, name+strings.NewReplacer(" ", "", ",", "").Replace(x.name), size, "item", large, largeOut, fill)
				for range 2 {
					f.hold(x.at).release()
				}
				held := f.hold(x.at)
				r := f.start()
				held.wait()
				f.awaitRows(r, "item", 2)
				f.sql(x.sql)
				f.delivered(r)
				held.release()
				f.state(f.done(r, 1)["item"], backfill.Done, 1, reads(x.want)+1)
				x.want["10"] = "r b,0 first"
				for k, w := range x.want {
					x.want[k] = strings.NewReplacer(" b,", " "+b+",", " n,", " "+strings.Replace(b, "b", "n", 1)+",").Replace(w)
				}
				f.tells("item", x.want)
			})
		}
	}

	// A row has come to another key without its large value, and waits to be read by it.
	for _, x := range []struct{ name, place, sql, want string }{
		{"killed", "chunk-begin", ``, "c ?,0; r b…3000,0 last"},
		{"killed when it was read", "chunk-read", ``, "c ?,0; r b…3000,0 last"},
		{"killed and changed", "chunk-begin", `UPDATE item SET v = 1 WHERE id = 5`, "c ?,0; u ?,1; r b…3000,1 last"},
		{"killed and moved on", "chunk-begin", `UPDATE item SET id = 6 WHERE id = 5`, "c ?,0; d"},
		{"killed and deleted", "chunk-begin", `DELETE FROM item WHERE id = 5`, "c ?,0; d"},
	} {
		t.Run("queued: "+x.name, func(t *testing.T) {
			f := force(t, pg, "queued"+strings.ReplaceAll(x.name, " ", ""), 1<<16, "item", large, largeOut, `INSERT INTO item VALUES (10, repeat('b', 3000), 0)`)
			read := f.hold("chunk-read")
			queue := f.hold(x.place)
			if x.place == "chunk-begin" { // of the one chunk before
				queue.release()
				queue = f.hold(x.place)
			}
			r := f.start()
			read.wait()
			f.sql(`UPDATE item SET id = 5 WHERE id = 10`)
			f.delivered(r)
			read.release()
			queue.wait()
			f.delivered(r) // the queue is saved
			queue.kill(r)
			if c := f.copies(t.Context())["item"]; len(c.Queue) != 1 || !c.RangesDone() {
				t.Errorf("saved: %+v", c)
			}
			if x.sql != "" {
				f.sql(x.sql)
			}
			r = f.start()
			f.done(r, 1)
			want := map[string]string{"5": x.want, "10": "d"}
			if x.name == "killed and moved on" {
				want["6"] = "c ?,0; r b…3000,0 last"
			}
			f.tells("item", want)
		})
	}

	// The move is delivered and not visible: what is read by the new key finds nothing, and that says nothing.
	t.Run("queued: not visible", func(t *testing.T) {
		f := force(t, pg, "queuedunseen", 1<<16, "item", large, largeOut, `INSERT INTO item VALUES (10, repeat('b', 3000), 0), (20, repeat('b', 3000), 0)`)
		f.standby(true)
		defer f.standby(false)
		read, placed := f.hold("chunk-read"), f.hold("chunk-placed")
		r := f.start()
		read.wait()
		waits := f.blocked("SyncRep", `UPDATE item SET id = 5 WHERE id = 10`)
		f.delivered(r)
		asked := f.hold("chunk-placed")
		read.release()
		placed.wait()
		placed.release()
		asked.wait() // of the queued key, which nobody has found
		asked.release()
		f.standby(false)
		f.goes(waits)
		f.done(r, 1)
		f.tells("item", map[string]string{"5": "c ?,0; r b…3000,0 last", "10": "d", "20": "r b…3000,0 first"})
	})
}

// reads counts the reads in what is to be told.
func reads(want map[string]string) (n int64) {
	for _, w := range want {
		for e := range strings.SplitSeq(w, "; ") {
			if strings.HasPrefix(e, "r ") {
				n++
			}
		}
	}
	return n
}

// awaitRows waits until so many rows of a copy have their place, and are committed.
func (f *forced) awaitRows(r *running, table string, n int64) {
	f.t.Helper()
	f.await(fmt.Sprintf("%d rows to have their place", n), r, func() bool {
		c := f.copies(f.t.Context())[table]
		return c != nil && c.Rows >= n
	})
}

// TestCopyPieces: a chunk that is larger than a batch goes out in several, and is gone on with where it was broken off.
func TestCopyPieces(t *testing.T) {
	pg := forcedPG(t, "")
	pieces := func(t *testing.T, name string) *forced {
		f := force(t, pg, name, 1<<20, "item", large, `INSERT INTO item SELECT i * 10, repeat('b', 2000), 0 FROM generate_series(1, 5) i`)
		f.also(func(c *Config) { c.Sink.MaxBatchBytes = 3 << 10 }) // two rows
		return f
	}
	const row = "r b…2000,0 "
	t.Run("changes in between", func(t *testing.T) {
		f := pieces(t, "pieces")
		split := f.hold("chunk-split")
		r := f.start()
		split.wait()
		f.sql(`UPDATE item SET v = 1`) // of all, placed and not
		split.release()
		f.done(r, 1)
		// Of those without a place the stream may come first, and then they have none.
		for k, events := range f.story("item", "id") {
			switch got := strings.Join(events, "; "); {
			case strings.HasPrefix(got, row) && strings.HasSuffix(got, "; u b…2000,1") && len(events) == 2:
			case got != "u b…2000,1" || k == "10":
				t.Errorf("%s: %s", k, got)
			}
		}
	})
	for nth := 1; nth <= 2; nth++ {
		t.Run(fmt.Sprintf("killed at piece %d", nth), func(t *testing.T) {
			f := pieces(t, fmt.Sprintf("piece%d", nth))
			for range nth - 1 {
				f.hold("chunk-split").release()
			}
			split := f.hold("chunk-split")
			r := f.start()
			split.wait()
			// A piece is committed before the next one goes out; this one need not be.
			split.kill(r)
			placed := f.copies(t.Context())["item"].Rows
			if placed < int64(2*(nth-1)) || placed > 4 {
				t.Errorf("%d rows had their place", placed)
			}
			f.sql(`UPDATE item SET v = 1 WHERE id IN (10, 50)`, `INSERT INTO item VALUES (45, 'n', 0)`)
			r = f.start()
			f.state(f.done(r, 1)["item"], backfill.Done, 1, 6)
			for k, events := range f.story("item", "id") {
				got := strings.Join(events, "; ")
				for _, marker := range []string{" first", " true", " last"} {
					got = strings.ReplaceAll(got, marker, "")
				}
				want := strings.TrimSpace(row)
				switch {
				case k == "10" && placed > 0:
					want += "; u b…2000,1"
				case k == "10", k == "50":
					want = "u b…2000,1; r b…2000,1"
				case k == "45":
					want = "c n,0; r n,0"
				}
				if got != want {
					t.Errorf("%s: %s, want %s", k, got, want)
				}
			}
		})
	}
}

// TestCopyBounds: what is too large for what was meant for it.
func TestCopyBounds(t *testing.T) {
	pg := forcedPG(t, "")
	t.Run("notes", func(t *testing.T) {
		f := force(t, pg, "boundnotes", 1<<16, "item", item, `INSERT INTO item SELECT i, 0 FROM generate_series(1, 50) i`)
		f.also(func(c *Config) { c.Copy.small.noteBytes = 4000 }) // of 50 changes each takes 128
		read := f.hold("chunk-read")
		r := f.start()
		read.wait()
		f.sql(`UPDATE item SET v = 1`) // more than are noted
		f.delivered(r)
		if !f.logged.has("more changes of it than are noted") {
			t.Error("the log does not say that there are too many changes")
		}
		fence := f.hold("copy-fence")
		read.release()
		fence.wait() // what was noted is forgotten, so a new fence is taken
		fence.release()
		f.state(f.done(r, 1)["item"], backfill.Done, 1, 50)
		want := map[string]string{}
		for i := range 50 {
			want[fmt.Sprint(i+1)] = "u 1; r 1 true"
		}
		want["1"], want["50"] = "u 1; r 1 first", "u 1; r 1 last"
		f.tells("item", want)
	})
	t.Run("a row", func(t *testing.T) {
		f := force(t, pg, "boundrow", 1000, "item", large, `INSERT INTO item VALUES (1, 'a', 0), (2, repeat('b', 300000), 0), (3, 'c', 0), (4, repeat('d', 300000), 0)`)
		r := f.start()
		f.state(f.done(r, 1)["item"], backfill.Done, 1, 4)
		f.tells("item", map[string]string{"1": "r a,0 first", "2": "r b…300000,0 true", "3": "r c,0 true", "4": "r d…300000,0 last"})
	})
}
