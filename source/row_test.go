package source

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"walferry/decode"
	"walferry/internal/testbed"
)

// TestReadRows: many rows with one question, on the oldest server and on the newest, and as text.
func TestReadRows(t *testing.T) {
	for _, x := range []struct {
		version string
		text    bool
	}{{"14", false}, {"18", true}} {
		t.Run(fmt.Sprint(x.version, x.text), func(t *testing.T) { testReadRows(t, testbed.Postgres(t, x.version), x.text) })
	}
}

func testReadRows(t *testing.T, pg *testbed.PG, text bool) {
	// What a row's reading meets is said in mode: a policy is asked for each of them.
	pg.Exec(testbed.Owner, `CREATE DOMAIN code AS text CHECK (VALUE <> '')`, `CREATE TYPE mood AS ENUM ('sad', 'ok')`,
		`CREATE TABLE mode (kind text)`, `INSERT INTO mode VALUES ('')`, `CREATE SEQUENCE bomb`,
		`CREATE FUNCTION gate() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			CASE (SELECT kind FROM public.mode)
			WHEN 'cut' THEN IF nextval('public.bomb') = 3 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
			WHEN 'always cut' THEN PERFORM pg_terminate_backend(pg_backend_pid());
			WHEN 'slow' THEN PERFORM pg_sleep(0.2);
			ELSE END CASE;
			RETURN true; END $$`,
		`CREATE TABLE big (c code, m mood, a int[], k1 int, note text, raw bytea, PRIMARY KEY (c, m, a))`,
		`ALTER TABLE big ALTER note SET STORAGE EXTERNAL, ENABLE ROW LEVEL SECURITY`, `CREATE POLICY p ON big USING (gate())`,
		`GRANT SELECT ON big, mode TO `+testbed.Reader, `GRANT USAGE ON bomb TO `+testbed.Reader,
		`INSERT INTO big SELECT n::text, 'ok', ARRAY[n, n], 1, repeat(n::text, 4000), CASE WHEN n % 2 = 0 THEN '\x00ff'::bytea END FROM generate_series(1, 40) n`)
	cfg := config(pg)
	cfg.TextMode = text
	cat, err := OpenCatalog(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	super := pg.Connect(testbed.Superuser)
	get := func(sql string, to ...any) {
		t.Helper()
		if err := super.QueryRow(t.Context(), sql).Scan(to...); err != nil {
			t.Fatal(err)
		}
	}
	rel := &decode.Relation{Schema: "public", Name: "big", Identity: decode.IdentityDefault, Columns: []decode.Column{
		{Name: "c", Mod: -1, Key: true}, {Name: "m", Mod: -1, Key: true}, {Name: "a", Type: 1007, Mod: -1, Key: true},
		{Name: "k1", Type: 23, Mod: -1}, {Name: "note", Type: 25, Mod: -1}, {Name: "raw", Type: 17, Mod: -1}}}
	get(`SELECT 'big'::regclass::oid, 'code'::regtype::oid, 'mood'::regtype::oid`, &rel.ID, &rel.Columns[0].Type, &rel.Columns[1].Type)
	key := func(xid uint32, n int) RowKey {
		row := decode.Tuple{{Kind: decode.Text, Data: fmt.Append(nil, n)}, {Kind: decode.Text, Data: []byte("ok")}, {Kind: decode.Text, Data: fmt.Appendf(nil, "{%d,%d}", n, n)},
			{Kind: decode.Null}, {Kind: decode.Unchanged}, {Kind: decode.Unchanged}}
		k, ok := Key(xid, rel, row)
		if !ok {
			t.Fatal("no key")
		}
		return k
	}
	note := func(f FoundRow) string {
		if f.Values == nil {
			return fmt.Sprint(f.Seen)
		}
		return string(f.Values[1].Data)
	}
	read := func(maxBytes int, keys ...RowKey) ([]FoundRow, error) {
		return cat.ReadRows(t.Context(), rel, keys, []int{5, 4}, maxBytes)
	}
	mode := func(kind string) {
		t.Helper()
		pg.Exec(testbed.Owner, `UPDATE mode SET kind = '`+kind+`'`)
	}
	const old = 3 // a transaction that everybody sees
	many := []RowKey{key(old, 7), key(old, 99), key(old, 8), key(old, 7)}
	all := func(what string) {
		t.Helper()
		found, err := read(1<<20, many...)
		if err != nil || len(found) != 4 {
			t.Fatalf("%s: %d rows, %v", what, len(found), err)
		}
		for i, want := range []string{strings.Repeat("7", 4000), "true", strings.Repeat("8", 4000), strings.Repeat("7", 4000)} {
			if got := note(found[i]); got != want || !found[i].Seen {
				t.Errorf("%s, row %d: %.20s", what, i, got)
			}
		}
		raw := map[bool]string{false: "\x00\xff", true: `\x00ff`}[text]
		if a, b := found[0].Values[0], found[2].Values[0]; a.Kind != decode.Null || string(b.Data) != raw || b.Kind != map[bool]decode.Kind{false: decode.Binary, true: decode.Text}[text] {
			t.Errorf("%s: %v, %v", what, a, b)
		}
	}
	all("there, not there, there, the first again")

	raw := map[bool]int{false: 2, true: 6}[text]
	// As many as there is room for, the first one whatever it takes.
	for maxBytes, want := range map[int]int{0: 1, 3999: 1, 8000: 2, 8000 + raw: 3, 11999 + raw: 3, 12000 + raw: 4} {
		if found, err := read(maxBytes, many...); err != nil || len(found) != want || note(found[0]) != strings.Repeat("7", 4000) {
			t.Errorf("%d bytes: %d rows, %v, want %d", maxBytes, len(found), err, want)
		}
	}

	// A transaction that is not visible yet: waited for in front, left for later behind.
	open := pg.Connect(testbed.Owner)
	var xid uint32
	if _, err := open.Exec(t.Context(), `BEGIN`); err != nil {
		t.Fatal(err)
	}
	if err := open.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text::bigint & 4294967295`).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	found, err := read(1<<20, key(old, 7), key(xid, 8), key(old, 9))
	if err != nil || len(found) != 3 || !found[0].Seen || found[1].Seen || found[1].Values != nil || note(found[2]) != strings.Repeat("9", 4000) {
		t.Errorf("behind: %d rows, %v", len(found), err)
	}
	if !text { // it takes rowTimeout
		if _, err := read(1<<20, key(xid, 8), key(old, 9)); !errors.Is(err, errNotVisible) {
			t.Errorf("in front: %v", err)
		}
	}
	if _, err := open.Exec(t.Context(), `UPDATE big SET note = 'then' WHERE c = '8'; COMMIT`); err != nil {
		t.Fatal(err)
	}
	if found, err := read(1<<20, key(xid, 8), key(old, 9)); err != nil || note(found[0]) != "then" {
		t.Errorf("committed: %v", err)
	}
	pg.Exec(testbed.Owner, `UPDATE big SET note = repeat('8', 4000) WHERE c = '8'`)

	// The connection ends in the middle of an answer: it is asked again on a new one, if that one lives.
	mode("cut")
	all("cut once")
	mode("always cut")
	if found, err := read(1<<20, many...); err == nil || is[*UnreadableRowError](err) {
		t.Errorf("always cut: %d rows, %v", len(found), err)
	}
	if !text { // these take rowTimeout too
		// Too much at once: then one.
		mode("slow")
		var slow []RowKey
		for n := range 40 {
			slow = append(slow, key(old, n+1))
		}
		if found, err := read(1<<20, slow...); err != nil || len(found) != 1 || note(found[0]) != strings.Repeat("1", 4000) {
			t.Errorf("slow: %d rows, %v", len(found), err)
		}
		mode("")
		// A table that is locked.
		if _, err := open.Exec(t.Context(), `BEGIN; LOCK TABLE big`); err != nil {
			t.Fatal(err)
		}
		if _, err := read(1<<20, many...); !is[*UnreadableRowError](err) || !strings.Contains(err.Error(), "lock timeout") {
			t.Errorf("locked: %v", err)
		}
		if _, err := open.Exec(t.Context(), `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
	}
	mode("")

	// A table that may not be read.
	pg.Exec(testbed.Owner, `REVOKE SELECT ON big FROM `+testbed.Reader)
	if _, err := read(1<<20, many...); !is[*UnreadableRowError](err) || !strings.Contains(Hint(err), `GRANT SELECT ON "public"."big"`) {
		t.Errorf("denied: %v", err)
	}
	pg.Exec(testbed.Owner, `GRANT SELECT ON big TO `+testbed.Reader)

	// A column of another type, and one that is not there, whatever the question calls its own.
	pg.Exec(testbed.Owner, `ALTER TABLE big ALTER note TYPE varchar`)
	if found, err := read(1<<20, many...); err != nil || len(found) != 4 || note(found[0]) != "true" {
		t.Errorf("of another type: %v", err)
	}
	pg.Exec(testbed.Owner, `ALTER TABLE big ALTER note TYPE text, DROP k1`)
	five := key(old, 7)
	rel.Columns[3].Key = true // k1
	five.Identity = append(five.Identity, decode.Datum{Kind: decode.Text, Data: []byte("1")})
	if found, err := read(1<<20, five); !is[*UnreadableRowError](err) {
		t.Errorf("without a column of the key: %v, %v", found, err)
	}
	hasKey := func(row decode.Tuple) bool { _, ok := Key(old, rel, row); return ok }
	if hasKey(decode.Tuple{{Kind: decode.Text}, {Kind: decode.Null}, {Kind: decode.Text}, {Kind: decode.Text}}) || hasKey(nil) {
		t.Error("a row without a value in its identity has a key")
	}
}
