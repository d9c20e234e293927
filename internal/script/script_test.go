package script

import (
	"errors"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, x := range []struct {
		name, script string
		want         []string // "line: statement"
	}{
		{"empty", " ;; -- nothing;\n/* ; */;", nil},
		{"two", "SELECT 1;\n\n  SELECT 2", []string{"1: SELECT 1", "3: SELECT 2"}},
		{"comments", "-- a; b\n/* c; /* d; */ e; */ SELECT 1 -- f;\n + 2; -- g", []string{"2: SELECT 1 -- f;\n + 2"}},
		{"operators that begin like comments", "SELECT 1 */* ; */ 2; SELECT 3 ---4;\n; SELECT 5", []string{"1: SELECT 1 */* ; */ 2", "1: SELECT 3", "2: SELECT 5"}},
		{"strings", `SELECT 'a;''b;\'; SELECT "c;""d"; SELECT U&'\0061;'; SELECT x'1;'`, []string{`1: SELECT 'a;''b;\'`, `1: SELECT "c;""d"`, `1: SELECT U&'\0061;'`, `1: SELECT x'1;'`}},
		{"strings with escapes", `SELECT E'a\';b', e'c''\\'; SELECT 1`, []string{`1: SELECT E'a\';b', e'c''\\'`, "1: SELECT 1"}},
		{"a string with escapes goes on", "SELECT E'a' -- x'\n 'b\\';c'; SELECT 2", []string{"1: SELECT E'a' -- x'\n 'b\\';c'", "2: SELECT 2"}},
		{"a string that does not go on", "SELECT E'a' 'b\\'; SELECT 2", []string{`1: SELECT E'a' 'b\'`, "1: SELECT 2"}},
		{"an identifier that ends like an escape", `SELECT type'a\'; SELECT 2`, []string{`1: SELECT type'a\'`, "1: SELECT 2"}},
		{"dollars", "DO $$ BEGIN; END $$; SELECT $a$ $$ ; $A$ $a$; SELECT a$b$c; SELECT $1;", []string{"1: DO $$ BEGIN; END $$", "1: SELECT $a$ $$ ; $A$ $a$", "1: SELECT a$b$c", "1: SELECT $1"}},
		{"dollars of other alphabets", "SELECT $ä$;$ä$; SELECT 2$x$;$x$", []string{"1: SELECT $ä$;$ä$", "1: SELECT 2$x$;$x$"}},
		{"parentheses", "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SELECT 3", []string{"1: CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)", "1: SELECT 3"}},
		{"begin atomic",
			"CREATE OR REPLACE FUNCTION f(begin int DEFAULT (CASE WHEN true THEN 1 END)) RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
			[]string{"1: CREATE OR REPLACE FUNCTION f(begin int DEFAULT (CASE WHEN true THEN 1 END)) RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", "1: SELECT 3"}},
		{"a procedure", "create procedure p() begin atomic insert into t values (1); end; select 1", []string{"1: create procedure p() begin atomic insert into t values (1); end", "1: select 1"}},
		{"a function called begin", "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT 2", []string{"1: CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'", "1: SELECT 2"}},
		{"a transaction", "BEGIN; SELECT 1; END; SELECT 2", []string{"1: BEGIN", "1: SELECT 1", "1: END", "1: SELECT 2"}},
		{"data", "COPY t (a) FROM stdin; -- of psql\n1;\n'\n\\.\nSELECT 1;", []string{"1: COPY t (a) FROM stdin", "5: SELECT 1"}},
		{"data without an end", "COPY t FROM STDIN WITH (FORMAT csv);\r\n1;", []string{"1: COPY t FROM STDIN WITH (FORMAT csv)"}},
		{"byte order mark", "\ufeffSELECT 1", []string{"1: SELECT 1"}},
		{"lines of any kind", "SELECT 1;\r\n-- x\rSELECT 2\r\n;\nSELECT 3", []string{"1: SELECT 1", "2: SELECT 2", "4: SELECT 3"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			list, err := Split("m.sql", x.script)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range list {
				got = append(got, strings.TrimPrefix(s.String(), "m.sql:")+": "+s.SQL)
			}
			if strings.Join(got, "\n") != strings.Join(x.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(x.want, "\n"))
			}
		})
	}
}

func TestSplitErrors(t *testing.T) {
	for script, want := range map[string]string{
		"SELECT 1;\n\\i other.sql\n": `m.sql:2: \i is a command of psql`,
		"SELECT 1 \\gset\n":          `m.sql:1: \gset is a command of psql`,
		"SELECT '":                   "m.sql:1: a text in ' does not end",
		"SELECT\n\"a":                `m.sql:2: a text in " does not end`,
		"SELECT E'\\'":               "m.sql:1: a text in ' does not end",
		"SELECT 1;\nDO $x$ $$":       "m.sql:2: a text in $x$ does not end",
		"/* /* */":                   "m.sql:1: a comment does not end",
		"SELECT 1\n\x00":             "m.sql:2: there is a NUL byte",
		"\nCREATE FUNCTION f() BEGIN ATOMIC SELECT 1;\n;\n;": "m.sql:2: a function's body",
	} {
		_, err := Split("m.sql", script)
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) || e.Hint() == "" {
			t.Errorf("%q: %v, want %s", script, err, want)
		}
	}
}

func TestOutside(t *testing.T) {
	const transaction, scratch = 1, 2 // where it is not run
	for sql, want := range map[string]int{
		"BEGIN": transaction, "START TRANSACTION": transaction, "Commit": transaction, "END": transaction, "ABORT": transaction, "ROLLBACK AND CHAIN": transaction,
		"/* x */ commit work": transaction, "SET TRANSACTION READ ONLY": transaction, "SET CONSTRAINTS ALL IMMEDIATE": transaction, "DISCARD ALL": transaction,
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": transaction,
		"SAVEPOINT a": 0, "ROLLBACK TO a": 0, "ROLLBACK WORK TO SAVEPOINT a": 0, "RELEASE a": 0, "SET CONSTRAINTS a IMMEDIATE": 0, "SET search_path = a": 0,
		"PREPARE TRANSACTION 'a'": transaction | scratch, "COMMIT PREPARED 'a'": transaction | scratch, "ROLLBACK PREPARED 'a'": transaction | scratch, "PREPARE a AS SELECT 1": 0,
		"SELECT setval('s', 1)": transaction, "SELECT 'setval'": 0, "SELECT nextval('s')": 0, "DO $$ BEGIN PERFORM setval('s', 1); END $$": transaction,
		"DO 'BEGIN PERFORM pg_catalog.setval(''s'', 1); END'": transaction, "DO LANGUAGE plpgsql $x$ BEGIN PERFORM Dblink_exec('a', 'b'); END $x$": transaction | scratch,
		"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ SELECT setval('s', 1) $$": 0,
		"SELECT pg_drop_replication_slot('a')":                                         transaction | scratch,
		"SELECT pg_logical_emit_message(true, 'a', 'b')":                               0,
		"SELECT pg_logical_emit_message(false, 'a', 'b')":                              transaction | scratch,
		"COPY t FROM STDIN": transaction | scratch, "COPY t TO '/tmp/x'": transaction | scratch, "COPY t FROM PROGRAM 'x'": transaction | scratch, "COPY t FROM '/tmp/x'": 0,
		"CREATE ROLE a": scratch, "ALTER USER a PASSWORD 'b'": scratch, "CREATE USER MAPPING FOR a SERVER b": 0, "DROP DATABASE a": scratch, "CREATE TABLE role (a int)": 0,
		"DO $$ BEGIN IF true THEN CREATE ROLE a; END IF; END $$": scratch, "GRANT a TO b": scratch, "GRANT SELECT ON t TO b": 0, "REVOKE ALL ON DATABASE a FROM b": scratch,
		"COMMENT ON ROLE a IS 'b'": scratch, "COMMENT ON TABLE a IS 'b'": 0, "REASSIGN OWNED BY a TO b": scratch, "DROP OWNED BY a": scratch,
		"ALTER SYSTEM SET a = 1": transaction | scratch, "CREATE SUBSCRIPTION a CONNECTION 'b' PUBLICATION c": transaction | scratch, "CHECKPOINT": transaction | scratch,
		"VACUUM t": 0, "CREATE INDEX CONCURRENTLY a ON t (b)": 0, "ALTER TABLE t ADD COLUMN system int": 0,
	} {
		list, err := Split("m.sql", sql)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %d statements, %v", sql, len(list), err)
		}
		got := 0
		if list[0].Outside(InTransaction) != "" {
			got |= transaction
		}
		if list[0].Outside(InScratch) != "" {
			got |= scratch
		}
		if got != want {
			t.Errorf("%s: %d, want %d (%s; %s)", sql, got, want, list[0].Outside(InTransaction), list[0].Outside(InScratch))
		}
		if list[0].Savepoint() != (strings.HasPrefix(sql, "SAVE") || strings.HasPrefix(sql, "REL") || strings.Contains(sql, " TO a") && strings.HasPrefix(sql, "ROLL") || strings.Contains(sql, "TO SAVEPOINT")) {
			t.Errorf("%s: savepoint %v", sql, list[0].Savepoint())
		}
	}
}

func TestHead(t *testing.T) {
	s := Statement{SQL: "ALTER TABLE\n  orders ADD COLUMN " + strings.Repeat("ä", 60)}
	if got := s.Head(); !strings.HasPrefix(got, "ALTER TABLE orders ADD COLUMN ää") || !strings.HasSuffix(got, "ä…") || len([]rune(got)) != 60 {
		t.Errorf("%q", got)
	}
}

// FuzzSplit: statements stand in the script in their order, each at its line, and each is one statement again.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{
		"SELECT 1; SELECT E'\\'' 'x';", "DO $a$ ; $a$;", "/* /* */ */ a; -- b\n c", "COPY t FROM STDIN;\n1\n\\.\nSELECT 2",
		"CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END; x", "U&\"a\"\"b;\"; (;);", "\\x", "E'a'\n'\\';b'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		list, err := Split("f", script)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Line > 1+strings.Count(script, "\n") {
				t.Fatalf("%v", err)
			}
			return
		}
		rest, line := script, 1
		for _, s := range list {
			// Its line is right if it is found there: not earlier, and not behind what follows.
			i := strings.Index(rest, s.SQL)
			for i >= 0 && line+strings.Count(rest[:i], "\n") < s.Line {
				next := strings.Index(rest[i+1:], s.SQL)
				if next < 0 {
					i = -1
					break
				}
				i += 1 + next
			}
			if i < 0 || line+strings.Count(rest[:i], "\n") != s.Line {
				t.Fatalf("%q is not at line %d of %q", s.SQL, s.Line, script)
			}
			line += strings.Count(rest[:i+len(s.SQL)], "\n")
			rest = rest[i+len(s.SQL):]
			again, err := Split("f", s.SQL)
			if err != nil || len(again) != 1 || again[0].SQL != s.SQL || again[0].Line != 1 {
				t.Fatalf("%q becomes %+v, %v", s.SQL, again, err)
			}
			for _, where := range []Where{InTransaction, InScratch} {
				if s.Outside(where) != again[0].Outside(where) {
					t.Fatalf("%q: %q and %q", s.SQL, s.Outside(where), again[0].Outside(where))
				}
			}
		}
	})
}
