package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"walferry/internal/testbed"
	"walferry/schema"
	"walferry/sink"
)

// TestToast: what stands in the event of an update that left a large value alone, by choice, on the oldest server and on the
// newest, and with the stream in text.
func TestToast(t *testing.T) {
	for _, x := range []struct {
		version, name string
		text          bool
	}{{"14", "toast14", false}, {"18", "toast18", false}, {"18", "toasttext", true}} {
		t.Run(x.name, func(t *testing.T) {
			pg := testbed.Postgres(t, x.version)
			b := newBed(t, pg, testbed.Kafka(t), x.name)
			b.adjust = func(c *Config) {
				c.Source.TextMode = x.text
				options := c.SchemaOptions
				c.SchemaOptions = func(s, table, db, systemID string) schema.Options {
					o := options(s, table, db, systemID)
					o.Toast = strings.TrimPrefix(table, "by_")
					return o
				}
			}
			ddl := []string{`CREATE SCHEMA later`}
			for _, table := range []string{"by_mark", "by_placeholder", "by_refetch"} {
				ddl = append(ddl, `CREATE TABLE `+table+` (a text, "b b" numeric(20,2), name text, "a big one" text, raw bytea, flags bool[], PRIMARY KEY (a, "b b"))`,
					`ALTER TABLE `+table+` ALTER "a big one" SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL, ALTER flags SET STORAGE EXTERNAL`)
			}
			pg.Exec(testbed.Owner, append(ddl, `GRANT SELECT ON by_refetch TO `+testbed.Reader)...)
			b.publish("by_mark, by_placeholder, by_refetch")
			r := b.start()
			r.first(t)
			for _, table := range []string{"by_mark", "by_placeholder", "by_refetch"} {
				pg.Exec(testbed.Owner,
					`INSERT INTO `+table+` SELECT 'k', 1.50, 'one', repeat('x', 5000), decode(repeat('00ff', 3000), 'hex'), array_fill(true, '{5000}')`,
					`UPDATE `+table+` SET name = 'two'`)
				b.caughtUp(r) // before the row has another key
				pg.Exec(testbed.Owner, `UPDATE `+table+` SET "b b" = 2`)
				b.caughtUp(r)
			}
			type field struct{ text, raw, flags string }
			show := func(e event) (f field) {
				after := inner(e.value["after"]).(map[string]any)
				for i, p := range []*string{&f.text, &f.raw, &f.flags} {
					switch v := inner(after[[]string{"a_big_one", "raw", "flags"}[i]]).(type) {
					case nil:
						*p = "null"
					case string:
						*p = v[:min(len(v), 30)] + fmt.Sprint(" ", len(v))
					case []byte:
						*p = string(v[:min(len(v), 30)]) + fmt.Sprint(" ", len(v))
					case []any:
						*p = fmt.Sprint(v[0], " ", len(v))
					}
				}
				return f
			}
			given := field{strings.Repeat("x", 30) + " 5000", strings.Repeat("\x00\xff", 15) + " 6000", "map[boolean:true] 5000"}
			for table, want := range map[string]struct {
				field
				unavailable, refetched string
			}{
				"by_mark":        {field{"null", "null", "null"}, "[a_big_one raw flags]", ""},
				"by_placeholder": {field{schema.Placeholder + " 28", schema.Placeholder + " 28", "null"}, "[a_big_one raw flags]", ""},
				"by_refetch":     {given, "<nil>", `["a_big_one","raw","flags"]`},
			} {
				events := b.all(table)
				slices.SortFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
				var ops []string
				for i, e := range events {
					if e.value == nil {
						ops = append(ops, "tombstone")
						continue
					}
					op := e.value["op"].(string)
					if ops = append(ops, op); op == "d" {
						if e.header("refetched") != "" {
							t.Errorf("%s: a delete has header refetched", table)
						}
						continue
					}
					expected := want
					if i == 0 {
						expected.field, expected.unavailable, expected.refetched = given, "<nil>", ""
					}
					if got := show(e); got != expected.field {
						t.Errorf("%s, event %d: %q, want %q", table, i, got, expected.field)
					}
					if got := fmt.Sprint(e.at("unavailable")); got != expected.unavailable || e.header("refetched") != expected.refetched {
						t.Errorf("%s, event %d: unavailable %s, refetched %s, want %s and %s", table, i, got, e.header("refetched"), expected.unavailable, expected.refetched)
					}
				}
				if want := []string{"c", "u", "d", "tombstone", "c"}; !slices.Equal(ops, want) {
					t.Errorf("%s: %v, want %v", table, ops, want)
				}
			}

			// What there is no value of now for stays marked: each of these is over before the pipeline reads it.
			r.drain(t)
			pg.Exec(testbed.Owner,
				`INSERT INTO by_refetch SELECT n::text, 0, 'one', repeat('y', 5000) FROM generate_series(1, 4) n`,
				`UPDATE by_refetch SET name = 'two' WHERE a IN ('1', '2', '3', '4')`,
				`DELETE FROM by_refetch WHERE a = '1'`,
				`UPDATE by_refetch SET a = 'new' WHERE a = '2'`,
				`UPDATE by_refetch SET "a big one" = NULL WHERE a = '3'`,
				`UPDATE by_refetch SET "a big one" = repeat('z', 6000) WHERE a = '4'`)
			r = b.start()
			b.caughtUp(r)
			got := map[string]string{}
			for _, e := range b.all("by_refetch") {
				if e.value == nil || e.value["op"] != "u" || e.at("after", "name") != "two" || e.at("unavailable") == nil && e.header("refetched") == "" {
					continue
				}
				if a := e.at("after", "a").(string); a != "k" {
					got[a] = fmt.Sprint(show(e).text, " ", e.at("unavailable"), " ", e.header("refetched"))
				}
			}
			for a, want := range map[string]string{"1": "null [a_big_one] ", "2": "null [a_big_one] ", "3": "null [a_big_one] ",
				"4": strings.Repeat("z", 30) + ` 6000 <nil> ["a_big_one"]`} {
				if got[a] != want {
					t.Errorf("row %s: %q, want %q", a, got[a], want)
				}
			}

			if x.name == "toast18" {
				b.unseen(func(e event) string { return show(e).text })
			}

			// Without the right to read nothing is marked in silence: the stream stops, and says what to grant.
			if x.name == "toasttext" {
				pg.Exec(testbed.Owner, `REVOKE SELECT ON by_refetch FROM `+testbed.Reader, `UPDATE by_refetch SET name = 'denied' WHERE a = '4'`)
				stop, ok := errors.AsType[*StopError](r.ended(t))
				if !ok || !strings.Contains(stop.Remedy, `GRANT SELECT ON "public"."by_refetch" TO`) {
					t.Errorf("without the right to read: %v", stop)
				}
				pg.Exec(testbed.Owner, `GRANT SELECT ON by_refetch TO `+testbed.Reader)
				r = b.start()
				b.caughtUp(r)
			}

			// A value of now that the topic does not take is no reason to stop before a row that has it not.
			if x.name == "toast14" {
				r.drain(t)
				b.logged.take()
				pg.Exec(testbed.Owner, `UPDATE by_refetch SET name = 'small' WHERE a = '4'`,
					`UPDATE by_refetch SET "a big one" = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 60000) n) WHERE a = '4'`)
				r = b.start()
				if err := r.ended(t); !is[*sink.TooLargeError](err) {
					t.Errorf("a value of 1.9 MB: %v", err)
				}
				events := b.all("by_refetch")
				last := slices.MaxFunc(events, func(x, y event) int { return x.place(t).compare(y.place(t)) })
				if got := fmt.Sprint(last.at("after", "name"), show(last).text, last.at("unavailable"), last.header("refetched")); got != "smallnull[a_big_one]" {
					t.Errorf("the row before it: %s", got)
				}
				if !strings.Contains(b.logged.take(), "a value of now cannot be published") {
					t.Error("the log does not say that the value stays marked")
				}
				return
			}

			// So does all that is of another table than the row's, although it has its name now.
			r.drain(t)
			pg.Exec(testbed.Owner,
				`UPDATE by_refetch SET name = 'three' WHERE a = '4'`,
				`ALTER TABLE by_refetch SET SCHEMA later`,
				`CREATE TABLE by_refetch (LIKE later.by_refetch INCLUDING ALL)`, `GRANT SELECT ON by_refetch TO `+testbed.Reader,
				`INSERT INTO by_refetch SELECT '4', 0, 'other', repeat('o', 5000)`)
			r = b.start()
			b.caughtUp(r)
			found := false
			for _, e := range b.all("by_refetch") {
				if e.value != nil && e.at("after", "name") == "three" {
					found = true
					if got := fmt.Sprint(show(e).text, e.at("unavailable")); got != "null[a_big_one]" {
						t.Errorf("of another table with its name: %s", got)
					}
				}
			}
			if !found {
				t.Error("the update before the rename did not come")
			}
			r.drain(t)
		})
	}
}

// unseen: a commit that waits for a standby is delivered before anybody sees it. What could be read then is older than the event,
// so the value stays marked.
func (b *bed) unseen(text func(event) string) {
	b.t.Helper()
	b.pg.Exec(testbed.Superuser, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`, `SELECT pg_reload_conf()`)
	b.await("the setting to be in force", nil, func() bool { return ask[string](b, `SHOW synchronous_standby_names`) == "nobody" })
	waiting := make(chan error, 1)
	owner := b.pg.Connect(testbed.Owner)
	go func() {
		_, err := owner.Exec(context.Background(), `BEGIN; UPDATE by_refetch SET "a big one" = repeat('w', 7000) WHERE a = '4';
			UPDATE by_refetch SET name = 'waits' WHERE a = '4'; COMMIT`)
		waiting <- err
	}()
	for waits, begun := "", time.Now(); waits == ""; {
		if time.Since(begun) > time.Minute {
			b.t.Fatal("the delivered update does not come")
		}
		for _, e := range b.all("by_refetch") {
			if e.value != nil && e.at("after", "name") == "waits" {
				waits = fmt.Sprint(text(e), e.at("unavailable"))
			}
		}
		if waits != "" && waits != "null[a_big_one]" {
			b.t.Errorf("of a row that is not visible yet: %s", waits)
		}
	}
	select {
	case err := <-waiting:
		b.t.Errorf("the commit did not wait: %v", err)
	default:
		b.pg.Exec(testbed.Superuser, `ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`)
		if err := <-waiting; err != nil {
			b.t.Error(err)
		}
	}
}
