package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"walferry/decode"
	"walferry/schema"
	"walferry/schema/registry"
	"walferry/source"
)

// A choice is another way to the same end, in steps that no subject refuses.
type choice struct {
	Title string   `json:"title"`
	Steps []string `json:"steps"` // SQL, or words
	// Checked says that no step is refused: its schemas were made and compared as those of the migration were, or the
	// subjects are new ones.
	Checked bool `json:"checked"`
}

// choices are what can be done instead of a migration whose schemas are refused.
func (pl *planner) choices(t *plannedTable, b, a *derived) []choice {
	value := slices.IndexFunc(t.Subjects, func(s plannedSubject) bool {
		return s.Subject == a.table.ValueSubject && s.Verdict == verdictIncompatible
	})
	refused := slices.ContainsFunc(t.Subjects, func(s plannedSubject) bool { return s.Verdict == verdictIncompatible })
	if !refused {
		return nil
	}
	var out []choice
	if value >= 0 && b != nil && b.err == nil && b.table.Topic == a.table.Topic {
		if c := pl.besides(&t.Subjects[value], b, a); c != nil {
			out = append(out, *c)
		}
	}
	if t.Policy == "new-topic" {
		return out // which is what happens
	}
	name := a.name()
	return append(out, choice{Title: "another topic, with subjects of its own, for what comes after the migration", Steps: []string{
		fmt.Sprintf("schema.tables: {%s: {on_incompatible: new-topic}} in the configuration; start walferry with it", name),
		fmt.Sprintf("run the migration: from the first row after it on the table's events go to %[1]s.v2, or the next number that is free", pl.config.TopicName(a.Schema, a.Name)),
		"consumers read the old topic to its end, then the new one; order across the two is by commit_lsn",
	}, Checked: true})
}

// besides is expand and contract: what would be a new type of a column is a new column, for as long as somebody reads the old one.
func (pl *planner) besides(s *plannedSubject, b, a *derived) *choice {
	var changed []int // in a.Relation.Columns
	for i := range a.Relation.Columns {
		if j := slices.Index(b.Numbers, a.Numbers[i]); j >= 0 && pl.refusedAlone(s.Level, b, j, a, i) {
			changed = append(changed, i)
		}
	}
	if changed == nil {
		return pl.renamedAdditions(s, b, a)
	}
	table := sqlName(a.Schema, a.Name)
	expand, contract := *a.Captured, *a.Captured
	expand.Relation, contract.Relation = cloneRelation(a.Relation), cloneRelation(a.Relation)
	expand.Descriptor = joined(b.Descriptor, a.Descriptor)
	contract.Descriptor = expand.Descriptor
	var adds, drops, pairs []string
	for _, i := range changed {
		old := b.Relation.Columns[slices.Index(b.Numbers, a.Numbers[i])]
		now := a.Relation.Columns[i]
		if slices.Contains(a.table.KeyColumns, now.Name) {
			return nil // a column of the key is required wherever it stands
		}
		if old.Type == now.Type && old.Mod == now.Mod {
			return &choice{Title: "a new type and a new column of it beside the old one, for as long as somebody reads that", Steps: []string{
				"leave the type as it is, and create another one",
				fmt.Sprintf("ALTER TABLE %s ADD COLUMN ... of that type; write both columns", table),
				"when no consumer reads the old column: drop it",
			}}
		}
		next := unusedName(now.Name, a)
		expand.Relation.Columns[i] = decode.Column{Name: now.Name, Type: old.Type, Mod: old.Mod, Key: old.Key}
		added := decode.Column{Name: next, Type: now.Type, Mod: now.Mod, Key: a.Identity == decode.IdentityFull}
		expand.Relation.Columns = append(expand.Relation.Columns, added)
		contract.Relation.Columns = append(contract.Relation.Columns, added)
		adds = append(adds, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s;", table, quoteIdent(next), a.Types[i]))
		drops = append(drops, fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s;", table, quoteIdent(now.Name)))
		pairs = append(pairs, now.Name+" and "+next)
	}
	contract.Relation.Columns = slices.DeleteFunc(contract.Relation.Columns, func(c decode.Column) bool {
		return slices.ContainsFunc(changed, func(i int) bool { return a.Relation.Columns[i].Name == c.Name })
	})
	if !pl.follow(s, &expand, &contract) {
		return nil
	}
	steps := slices.Concat(adds, []string{
		"write both: " + strings.Join(pairs, ", ") + " (the application, or a trigger), and fill in the rows that are there; each is an update event",
		"move the consumers to the new column",
	}, drops)
	return &choice{Title: "a new column beside the old one, for as long as somebody reads that", Steps: steps, Checked: true}
}

// renamedAdditions gives new columns names that the subject has never had: an older version has the same name with another type.
func (pl *planner) renamedAdditions(s *plannedSubject, b, a *derived) *choice {
	next := *a.Captured
	next.Relation = cloneRelation(a.Relation)
	var steps []string
	for i := range a.Relation.Columns {
		if slices.Contains(b.Numbers, a.Numbers[i]) || slices.Contains(a.table.KeyColumns, a.Relation.Columns[i].Name) {
			continue
		}
		c := &next.Relation.Columns[i]
		name := c.Name
		c.Name = unusedName(name, a)
		steps = append(steps, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s; -- not %s", sqlName(a.Schema, a.Name), quoteIdent(c.Name), a.Types[i], name))
	}
	if steps == nil || !pl.follow(s, &next) {
		return nil
	}
	return &choice{Title: "another name for the new column: an older version has this one with another type", Steps: steps, Checked: true}
}

// follow says whether the versions of a subject can be followed by these, one after the other.
func (pl *planner) follow(s *plannedSubject, steps ...*source.Captured) bool {
	previous := slices.Clone(s.previous)
	for _, step := range steps {
		d := pl.derive(step)
		if d.err != nil {
			return false
		}
		parsed, err := registry.ParseAvro(d.table.Value)
		if err != nil || len(registry.Check(s.Level, parsed, previous)) > 0 {
			return false
		}
		previous = append(previous, registry.Previous{Schema: parsed})
	}
	return true
}

// refusedAlone says whether the change of one column is refused by itself.
func (pl *planner) refusedAlone(level registry.Level, b *derived, j int, a *derived, i int) bool {
	var schemas [2]*registry.Schema
	for k, side := range []struct {
		d *derived
		c decode.Column
	}{{b, b.Relation.Columns[j]}, {a, a.Relation.Columns[i]}} {
		c := side.c
		c.Key = false
		rel := &decode.Relation{ID: a.OID, Schema: a.Schema, Name: a.Name, Identity: decode.IdentityNothing, Columns: []decode.Column{c}}
		o := pl.options(a.Captured)
		o.Key = nil
		t, err := schema.Derive(rel, side.d.Descriptor, a.table.Topic, o)
		if err != nil {
			return false
		}
		if schemas[k], err = registry.ParseAvro(t.Value); err != nil {
			return false
		}
	}
	return len(registry.Check(level, schemas[1], []registry.Previous{{Schema: schemas[0]}})) > 0
}

func cloneRelation(r *decode.Relation) *decode.Relation {
	c := *r
	c.Columns = slices.Clone(r.Columns)
	return &c
}

// joined has the types of both descriptors; where they differ, those of b.
func joined(a, b *decode.Descriptor) *decode.Descriptor {
	d := *b
	d.Types = maps.Clone(a.Types)
	if d.Types == nil {
		d.Types = map[uint32]*decode.Type{}
	}
	maps.Copy(d.Types, b.Types)
	return &d
}

// unusedName is a name for a new column.
func unusedName(column string, t *derived) string {
	taken := func(n string) bool {
		for _, c := range t.Everything {
			if c == n {
				return true
			}
		}
		return false
	}
	name := column + "_new"
	for n := 2; taken(name); n++ {
		name = fmt.Sprintf("%s_new%d", column, n)
	}
	return name
}
