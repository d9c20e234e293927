package workload

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Tables of CreateFire, which a first copy reads while they are written. Each row has a version, a number that grows with every
// change of it, also of its key, and is never given twice: what a key had before is always of a lower one. Counters has a key of
// one number, Pairs one of text and uuid, Marks none, Blobs values that are TOASTed.
const (
	Counters = "counters"
	Pairs    = "pairs"
	Marks    = "marks"
	Blobs    = "blobs"
)

// Fire are the tables of CreateFire, each as often as it is to be chosen.
func Fire() []string {
	return []string{Counters, Counters, Counters, Pairs, Pairs, Marks, Marks, Blobs}
}

// The rows of a table that are there at first have even numbers as keys, those that come are put between them.
const fireSchema = `
CREATE SEQUENCE version START 2;
CREATE TABLE counters (id bigint PRIMARY KEY, version bigint NOT NULL, note text);
CREATE TABLE pairs (a text, b uuid, version bigint NOT NULL, note text, PRIMARY KEY (a, b));
CREATE TABLE marks (n bigint NOT NULL, version bigint NOT NULL, note text);
ALTER TABLE marks REPLICA IDENTITY FULL;
CREATE INDEX ON marks (n);
CREATE TABLE blobs (id bigint PRIMARY KEY, version bigint NOT NULL, views integer NOT NULL, body text);
ALTER TABLE blobs ALTER COLUMN body SET STORAGE EXTERNAL;
`

// names are the first halves of the keys of Pairs: their order depends on the collation.
const names = `(ARRAY['Kiel', 'kiel', 'Łódź', 'o''Neill', 'Zürich', 'zur', 'ß'])`

// CreateFire makes the tables of Fire with that many rows each, which the audit does not have. The role must own the database.
func CreateFire(ctx context.Context, c *pgx.Conn, rows map[string]int64) error {
	sql := auditSchema + fireSchema + fmt.Sprintf(`
		INSERT INTO counters SELECT 2 * i, 1, 'row ' || i FROM generate_series(1, %d) i;
		INSERT INTO pairs SELECT %s[1 + i %% 7] || i %% 90, md5(i::text)::uuid, 1, 'row ' || i FROM generate_series(1, %d) i;
		INSERT INTO marks SELECT i, 1, 'row ' || i FROM generate_series(1, %d) i;
		INSERT INTO blobs SELECT 2 * i, 1, 0, repeat(md5(i::text), 70) FROM generate_series(1, %d) i;`,
		rows[Counters], names, rows[Pairs], rows[Marks], rows[Blobs])
	for _, t := range []string{Counters, Pairs, Marks, Blobs} {
		sql += audited(t)
	}
	if _, err := c.Exec(ctx, sql+"ANALYZE"); err != nil {
		return fmt.Errorf("workload: create: %w", err)
	}
	return nil
}

// between gives a number for a key that no row has ever had, anywhere between those that were there at first.
func (w *writer) between(table string) int64 {
	rows := w.cfg.Rows[table]
	if w.came == nil {
		w.came = map[string]int64{}
	}
	n := w.came[table]*int64(w.cfg.Writers) + int64(w.id)
	w.came[table]++
	if n >= rows {
		return 2*rows + n + 1
	}
	return 2*(n*1_000_003%rows) + 1
}

// any is where in a table the next row is taken that is changed: anywhere, and now and then among a few rows that all
// writers like.
func (w *writer) any(table string) int64 {
	if w.rng.IntN(5) == 0 {
		return 2 * w.hot(40)
	}
	return w.rng.Int64N(2 * w.cfg.Rows[table])
}

// near is a key behind which the next row is taken that is changed; "" for anywhere.
func (w *writer) near(table string) string {
	if w.cfg.Near == nil || w.rng.IntN(2) == 0 {
		return ""
	}
	return w.cfg.Near(table)
}

// fire makes a statement on one row of a table of CreateFire. A row that is deleted comes back with its key in the same
// statement or never: only so its version is certain to be a higher one.
func (w *writer) fire(s statement) statement {
	s.key = w.any(s.table)
	switch s.table {
	case Counters, Blobs:
		here := fmt.Sprintf("id = (SELECT min(id) FROM %s WHERE id >= $1)", s.table)
		if near := w.near(s.table); near != "" {
			here = fmt.Sprintf("id = (SELECT min(id) FROM %s WHERE id > %s + %d AND $1::bigint >= 0)", s.table, near, w.rng.IntN(map[string]int{Counters: 4000, Blobs: 300}[s.table]))
		}
		value, text := "note", fmt.Sprintf("by %d", w.id)
		if s.table == Blobs {
			value, text = "body", w.letters(2100+w.rng.IntN(600))
		}
		switch w.rng.IntN(8) {
		case 0:
			s.sql, s.args = fmt.Sprintf("DELETE FROM %s WHERE %s", s.table, here), []any{s.key}
		case 1:
			s.sql, s.args = fmt.Sprintf("UPDATE %s SET id = $2, version = nextval('version') WHERE %s", s.table, here), []any{s.key, w.between(s.table)}
		case 2:
			into := map[string]string{Counters: "counters (id, version, note)", Blobs: "blobs (id, version, views, body)"}[s.table]
			then := map[string]string{Counters: "id, nextval('version'), note || '!'", Blobs: "id, nextval('version'), 0, body"}[s.table]
			s.sql = fmt.Sprintf("WITH gone AS (DELETE FROM %s WHERE %s RETURNING *) INSERT INTO %s SELECT %s FROM gone", s.table, here, into, then)
			s.args = []any{s.key}
		case 3:
			s.sql, s.args = "INSERT INTO counters VALUES ($1, nextval('version'), $2)", []any{w.between(s.table), text}
			if s.table == Blobs {
				s.sql = "INSERT INTO blobs VALUES ($1, nextval('version'), 0, $2)"
			}
		case 4:
			s.sql = fmt.Sprintf("UPDATE %s SET %s = $2, version = nextval('version') WHERE %s", s.table, value, here)
			s.args = []any{s.key, text}
		default: // a value that is TOASTed stays
			s.sql = fmt.Sprintf("UPDATE counters SET note = note || '.', version = nextval('version') WHERE %s", here)
			if s.table == Blobs {
				s.sql = fmt.Sprintf("UPDATE blobs SET views = views + 1, version = nextval('version') WHERE %s", here)
			}
			s.args = []any{s.key}
		}
	case Pairs:
		name := fmt.Sprintf(`%s[1 + $1::bigint %% 7] || $1 %% 90`, names)
		here := fmt.Sprintf("(a, b) = (SELECT a, b FROM pairs WHERE (a, b) >= (%s, md5($1::text)::uuid) ORDER BY a, b LIMIT 1)", name)
		if near := w.near(s.table); near != "" {
			here = fmt.Sprintf("(a, b) = (SELECT a, b FROM pairs WHERE (a, b) > (%s) AND $1::bigint >= 0 ORDER BY a, b OFFSET %d LIMIT 1)", near, w.rng.IntN(2000))
		}
		switch w.rng.IntN(6) {
		case 0:
			s.sql, s.args = "DELETE FROM pairs WHERE "+here, []any{s.key}
		case 1:
			s.sql, s.args = "UPDATE pairs SET b = md5('moved' || $2::bigint)::uuid, version = nextval('version') WHERE "+here, []any{s.key, w.between(s.table)}
		case 2:
			s.sql = fmt.Sprintf("INSERT INTO pairs SELECT %s, md5('came' || $1::bigint)::uuid, nextval('version'), NULL", name)
			s.args = []any{w.between(s.table)}
		default:
			s.sql, s.args = "UPDATE pairs SET note = 'by ' || $2::bigint, version = nextval('version') WHERE "+here, []any{s.key, int64(w.id)}
		}
	case Marks:
		s.key /= 2
		here := "ctid = (SELECT ctid FROM marks WHERE n = $1 LIMIT 1)"
		switch w.rng.IntN(4) {
		case 0:
			s.sql, s.args = "DELETE FROM marks WHERE "+here, []any{s.key}
		case 1:
			s.sql, s.args = "UPDATE marks SET note = note || '.', version = nextval('version') WHERE "+here, []any{s.key}
		default: // twice the same, now and then
			s.sql, s.args = "INSERT INTO marks SELECT $1::bigint, 1, 'came' FROM generate_series(1, 1 + $1::bigint % 2)", []any{s.key}
		}
	}
	return s
}
