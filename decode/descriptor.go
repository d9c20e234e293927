package decode

import (
	"encoding/json"
	"fmt"
)

// Descriptor is what the catalog knows about a table and a Relation message does not say. It is plain data: source
// reads it from the catalog, schema derives from it, and the checkpoint topic keeps it as JSON, so that a replay
// derives the same schema from it whatever the catalog says by then.
type Descriptor struct {
	Relation uint32 `json:"relation"` // OID of the table
	Comment  string `json:"comment,omitempty"`
	// Columns in the catalog's order. Match them to Relation.Columns by name: the stream leaves some out.
	Columns []ColumnFacts `json:"columns,omitempty"`
	// Types by OID: the types of the columns, and what these are made of.
	Types map[uint32]*Type `json:"types,omitempty"`
	// PrimaryKey holds its columns' names in key order; empty where there is none.
	PrimaryKey []string `json:"primary_key,omitempty"`
}

// ColumnFacts are the catalog's facts about one column.
type ColumnFacts struct {
	Name      string `json:"name"`
	Comment   string `json:"comment,omitempty"`
	NotNull   bool   `json:"not_null,omitempty"`
	Default   string `json:"default,omitempty"` // SQL text of the default expression
	Generated bool   `json:"generated,omitempty"`
}

// Type is a row of pg_type, with what hangs on it.
type Type struct {
	OID          uint32
	Schema, Name string
	// Kind is pg_type.typtype: b base, c composite, d domain, e enum, p pseudo, r range, m multirange.
	Kind     byte
	Category byte   // pg_type.typcategory
	Elem     uint32 // an array's element type; zero for anything that is not a true array
	Base     uint32 // a domain's base type
	BaseMod  int32  // a domain's type modifier for its base; -1 for none
	Labels   []string
	Delim    byte // pg_type.typdelim, between elements in an array's text
	// Attributes of a composite in their order, without dropped ones, as its values have them.
	Attributes []Attribute
	Subtype    uint32 // a range's element type
	Range      uint32 // a multirange's range type
	// Extension that the type is a part of, "" for none. Types of two extensions can have one name.
	Extension string
	// HasBinary: the type has a send function, so a binary stream does not fail on it.
	HasBinary bool
}

// Attribute is a column of a composite type.
type Attribute struct {
	Name string `json:"name"`
	Type uint32 `json:"type"`
	Mod  int32  `json:"mod"`
}

// typeJSON is Type in JSON: the one-letter codes as letters.
type typeJSON struct {
	OID       uint32   `json:"oid"`
	Schema    string   `json:"schema"`
	Name      string   `json:"name"`
	Kind      string   `json:"kind,omitempty"`
	Category  string   `json:"category,omitempty"`
	Elem      uint32   `json:"elem,omitempty"`
	Base      uint32   `json:"base,omitempty"`
	BaseMod   int32    `json:"base_mod,omitempty"`
	Labels    []string `json:"labels,omitempty"`
	Delim     string   `json:"delim,omitempty"`
	HasBinary bool     `json:"has_binary,omitempty"`

	Attributes []Attribute `json:"attributes,omitempty"`
	Subtype    uint32      `json:"subtype,omitempty"`
	Range      uint32      `json:"range,omitempty"`
	Extension  string      `json:"extension,omitempty"`
}

// MarshalJSON writes the one-letter codes as the letters that the catalog shows.
func (t Type) MarshalJSON() ([]byte, error) {
	j := typeJSON{
		OID: t.OID, Schema: t.Schema, Name: t.Name, Elem: t.Elem, Base: t.Base, BaseMod: t.BaseMod,
		Labels: t.Labels, HasBinary: t.HasBinary, Attributes: t.Attributes, Subtype: t.Subtype, Range: t.Range,
		Extension: t.Extension,
	}
	for _, c := range []struct {
		code byte
		text *string
		name string
	}{{t.Kind, &j.Kind, "kind"}, {t.Category, &j.Category, "category"}, {t.Delim, &j.Delim, "delim"}} {
		// Postgres' codes are ASCII. Another byte would not come back out of JSON as it went in.
		if c.code >= 0x80 {
			return nil, fmt.Errorf("type %s: %s %#x is not ASCII", t.Name, c.name, c.code)
		}
		if c.code != 0 {
			*c.text = string(rune(c.code))
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (t *Type) UnmarshalJSON(b []byte) error {
	var j typeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	r := Type{
		OID: j.OID, Schema: j.Schema, Name: j.Name, Elem: j.Elem, Base: j.Base, BaseMod: j.BaseMod,
		Labels: j.Labels, HasBinary: j.HasBinary, Attributes: j.Attributes, Subtype: j.Subtype, Range: j.Range,
		Extension: j.Extension,
	}
	for _, c := range []struct {
		code *byte
		text string
		name string
	}{{&r.Kind, j.Kind, "kind"}, {&r.Category, j.Category, "category"}, {&r.Delim, j.Delim, "delim"}} {
		switch {
		case c.text == "":
		case len(c.text) == 1 && c.text[0] < 0x80:
			*c.code = c.text[0]
		default:
			return fmt.Errorf("type %s: %s %q is not one ASCII letter", j.Name, c.name, c.text)
		}
	}
	*t = r
	return nil
}
