package source

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"walferry/decode"
)

// Captured is a table that the configuration captures, as the stream would describe it with the next row.
type Captured struct {
	Table
	// Published says that it is in the publication. One that is not is described as it will be once it is there.
	Published bool
	// Addable says, of one that is not, that walferry puts it there by itself where it may alter the publication.
	Addable    bool
	Relation   *decode.Relation
	Descriptor *decode.Descriptor
	// Numbers are the columns' numbers in the catalog (attnum) and Types their types as SQL writes them, by the places of
	// Relation.Columns. A column that is renamed keeps its number.
	Numbers []int16
	Types   []string
	// Everything names all columns by number, those that are not published too.
	Everything map[int16]string
	// Filled says that it has rows, as far as our role may see them. Asked by Rehearse, of tables that are new in its Shape After.
	Filled bool
}

// Shape is what the configuration and the publication capture of a database at one moment.
type Shape struct {
	Tables []Captured // in order of schema and name
	// All has every table and partitioned table of the database by OID.
	All map[uint32]TableName
	// Publication says that the publication exists.
	Publication bool
	// Unpublishable says why the publication cannot be brought to the configuration, nil where nothing speaks against it.
	Unpublishable error
}

// TableName is a table, and what it is a part of.
type TableName struct {
	Schema, Name string
	Root         uint32 // OID of the uppermost table of its partition tree; 0 for one that is no partition
}

// String is the name in SQL.
func (n TableName) String() string { return quoteName(n.Schema, n.Name) }

// Table finds a captured table by its OID; nil for none.
func (s *Shape) Table(oid uint32) *Captured {
	for i := range s.Tables {
		if s.Tables[i].OID == oid {
			return &s.Tables[i]
		}
	}
	return nil
}

// shape reads the catalog as q's transaction sees it. Nothing in it may depend on the search path, which is the migration's.
func (c *Catalog) shape(ctx context.Context, q pgx.Tx) (*Shape, error) {
	s := &Shape{All: map[uint32]TableName{}}
	now, err := c.publishedNow(ctx, q)
	if err != nil {
		return nil, err
	}
	s.Publication = now.exists
	want, _, err := c.wantedTables(ctx, q)
	if column, ok := errors.AsType[*ColumnError](err); ok {
		s.Unpublishable, want, err = column, nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tables []Table
	if now.exists {
		if tables, err = c.tables(ctx, q); err != nil {
			return nil, err
		}
	}
	published := map[uint32]bool{}
	tables = slices.DeleteFunc(tables, func(t Table) bool {
		published[t.OID] = true
		return !c.sel.selects(t.Schema, t.Name)
	})
	var missing []uint32
	for _, t := range want {
		if !published[t.oid] {
			missing = append(missing, t.oid)
		}
	}
	more, err := c.tablesFrom(ctx, q, "(SELECT u AS relid, NULL::int2[] AS attrs, NULL::pg_node_tree AS qual FROM unnest($2::oid[]) u)", c.cfg.Publication, missing)
	if err != nil {
		return nil, err
	}
	for _, t := range append(tables, more...) {
		s.Tables = append(s.Tables, c.captured(t, want, now, published[t.OID]))
	}
	slices.SortFunc(s.Tables, func(a, b Captured) int { return slices.Compare([]string{a.Schema, a.Name}, []string{b.Schema, b.Name}) })
	for i := range s.Tables {
		if err := describe(ctx, q, &s.Tables[i]); err != nil {
			return nil, err
		}
	}
	rows, err := q.Query(ctx, `SELECT c.oid, n.nspname::text, c.relname::text,
		coalesce((SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a(relid, ord) WHERE c.relispartition ORDER BY a.ord DESC LIMIT 1), 0)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384`)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var t TableName
	_, err = pgx.ForEachRow(rows, []any{&oid, &t.Schema, &t.Name, &t.Root}, func() error {
		s.All[oid] = t
		return nil
	})
	return s, err
}

// captured makes of a table what it is once the publication is as configured.
func (c *Catalog) captured(t Table, want []*candidate, now published, published bool) Captured {
	out := Captured{Table: t, Published: published}
	i := slices.IndexFunc(want, func(w *candidate) bool { return w.oid == t.OID })
	if i < 0 {
		return out
	}
	w := want[i]
	out.Addable = w.usable || c.sel.names(w.schema, w.name)
	is := now.tables[t.OID]
	ours := !published || c.cfg.CreatePublication && !now.all && !sameColumns(is.columns, w.list)
	switch {
	case ours && w.list != nil:
		out.Columns = w.list
	case ours && is.columns != nil:
		out.Columns = w.columns
	}
	return out
}

// describe fills in how the stream describes the table (logicalrep_write_rel in proto.c), and what the catalog adds.
func describe(ctx context.Context, q pgx.Tx, t *Captured) error {
	rows, err := q.Query(ctx, `SELECT attname::text, attnum, atttypid, atttypmod, format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, t.OID)
	if err != nil {
		return err
	}
	t.Relation = &decode.Relation{ID: t.OID, Schema: t.Schema, Name: t.Name, Identity: t.Identity}
	t.Everything = map[int16]string{}
	var col decode.Column
	var number int16
	var typ string
	if _, err := pgx.ForEachRow(rows, []any{&col.Name, &number, &col.Type, &col.Mod, &typ}, func() error {
		t.Everything[number] = col.Name
		if slices.Contains(t.Columns, col.Name) {
			col.Key = t.Identity == decode.IdentityFull || slices.Contains(t.IdentityColumns, col.Name)
			t.Relation.Columns = append(t.Relation.Columns, col)
			t.Numbers, t.Types = append(t.Numbers, number), append(t.Types, typ)
		}
		return nil
	}); err != nil {
		return err
	}
	t.Descriptor = new(decode.Descriptor)
	return q.QueryRow(ctx, describeTable, t.OID).Scan(t.Descriptor)
}
