package decode_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"walferry/decode"

	"github.com/jackc/pglogrepl"
)

var update = flag.Bool("update", false, "write the golden files again")

// frame is one captured XLogData frame.
type frame struct {
	walStart pglogrepl.LSN
	msg      []byte
}

// captured reads all transcripts that TestCapture wrote, by path.
func captured(t testing.TB) map[string][]frame {
	t.Helper()
	paths, err := filepath.Glob("../testdata/pgoutput/*/frames-*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no captured frames: %v", err)
	}
	all := make(map[string][]frame)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "#") {
				continue
			}
			at, text, _ := strings.Cut(lines.Text(), " ")
			walStart, err := pglogrepl.ParseLSN(at)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			msg, err := hex.DecodeString(text)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			all[path] = append(all[path], frame{walStart, msg})
		}
		if err := lines.Err(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return all
}

// TestGolden decodes frames of real servers and compares what came out with events-<version>.txt beside them.
func TestGolden(t *testing.T) {
	for path, frames := range captured(t) {
		golden := strings.Replace(path, "frames-", "events-", 1)
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			d := decode.NewDecoder()
			var out bytes.Buffer
			seen := make(map[*decode.Relation]int)
			for i, f := range frames {
				e, err := d.Decode(f.walStart, f.msg)
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				describe(&out, d, seen, f.msg, e)
			}
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -run TestGolden ./decode -update writes it)", err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("decoded events differ from %s:\n%s", golden, firstDifference(out.String(), string(want)))
			}
		})
	}
}

// TestFrameLSN holds what the position rests on: the rows of a COPY share an LSN, which is why it counts them; those of one
// INSERT with several rows do not; a Relation message has no place in the WAL.
func TestFrameLSN(t *testing.T) {
	n := 0
	for path, frames := range captured(t) {
		var rows []pglogrepl.LSN
		for _, f := range frames {
			switch f.msg[0] {
			case 'R':
				if f.walStart != 0 {
					t.Errorf("%s: a Relation message at %s", path, f.walStart)
				}
			case 'I':
				rows = append(rows, f.walStart)
			default:
				if f.walStart == 0 && f.msg[0] != 'Y' {
					t.Errorf("%s: a message %q at 0/0", path, f.msg[0])
				}
			}
		}
		if filepath.Base(filepath.Dir(path)) != "same-lsn" {
			continue
		}
		n++
		if rows[0] != rows[1] || rows[1] != rows[2] || rows[2] != rows[3] {
			t.Errorf("%s: the rows of the COPY are at %v", path, rows[:4])
		}
		if rows[4] >= rows[5] {
			t.Errorf("%s: the rows of the INSERT are at %v", path, rows[4:6])
		}
	}
	if n < 3 {
		t.Errorf("%d captures of same-lsn", n)
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\n got %s\nwant %s", i+1, a, b)
		}
	}
	return "only at the end"
}

// describe writes one event as a line or a few. A relation is written where a row first uses it, with a number for its
// version, so that the file shows which Relation messages made one.
func describe(out *bytes.Buffer, d *decode.Decoder, seen map[*decode.Relation]int, msg []byte, e decode.Event) {
	relation := func(r *decode.Relation) string {
		version, ok := seen[r]
		if !ok {
			version = len(seen) + 1
			seen[r] = version
			fmt.Fprintf(out, "  version %d: %s identity %s\n", version, r, r.Identity)
			for _, c := range r.Columns {
				key := ""
				if c.Key {
					key = " key"
				}
				typ := strconv.FormatUint(uint64(c.Type), 10)
				if schema, name, ok := d.TypeName(c.Type); ok {
					typ = schema + "." + name // OIDs of created types are the server's choice
				}
				fmt.Fprintf(out, "    %q type %s mod %d%s\n", c.Name, typ, c.Mod, key)
			}
		}
		return fmt.Sprintf("%s version %d", r, version)
	}
	switch e := e.(type) {
	case nil:
		fmt.Fprintf(out, "  (%s)\n", pglogrepl.MessageType(msg[0]))
	case *decode.Begin:
		fmt.Fprintf(out, "begin xid %d commit %s at %s\n", e.XID, e.Commit, e.CommitTime.Format("2006-01-02T15:04:05.000000Z07:00"))
	case *decode.Commit:
		fmt.Fprintf(out, "commit xid %d commit %s end %s at %s\n", e.XID, e.Commit, e.End, e.CommitTime.Format("2006-01-02T15:04:05.000000Z07:00"))
	case *decode.Message:
		fmt.Fprintf(out, "  message %q at %s transactional %t: %q\n", e.Prefix, e.LSN, e.Transactional, e.Content)
	case *decode.Truncate:
		var names []string
		for _, r := range e.Relations {
			names = append(names, relation(r))
		}
		fmt.Fprintf(out, "  %d truncate %s at %s cascade %t restart identity %t\n", e.Ordinal, strings.Join(names, ", "), e.Position, e.Cascade, e.RestartIdentity)
	case *decode.Change:
		name := relation(e.Relation)
		fmt.Fprintf(out, "  %d %s %s at %s\n", e.Ordinal, e.Op, name, e.Position)
		switch e.OldKind {
		case decode.OldKey:
			fmt.Fprintf(out, "    key %s\n", tuple(e.Old))
		case decode.OldRow:
			fmt.Fprintf(out, "    old %s\n", tuple(e.Old))
		}
		if e.New != nil {
			fmt.Fprintf(out, "    new %s\n", tuple(e.New))
		}
	}
}

func tuple(t decode.Tuple) string {
	var parts []string
	for _, v := range t {
		switch v.Kind {
		case decode.Text, decode.Binary:
			s := fmt.Sprintf("%q", v.Data)
			if v.Kind == decode.Binary {
				s = fmt.Sprintf("x%x", v.Data)
			}
			if len(v.Data) > 200 {
				s = fmt.Sprintf("%s of %d bytes, first %q", v.Kind, len(v.Data), v.Data[0])
			}
			parts = append(parts, s)
		default:
			parts = append(parts, v.Kind.String())
		}
	}
	return "(" + strings.Join(parts, ", ") + ")"
}
