package decode

import (
	"fmt"
	"slices"
)

// Identity is a table's replica identity (pg_class.relreplident): what of an old row the server writes to the WAL.
type Identity byte

const (
	IdentityDefault Identity = 'd' // the primary key, or nothing where there is none
	IdentityFull    Identity = 'f' // every column
	IdentityIndex   Identity = 'i' // the columns of a chosen unique index
	IdentityNothing Identity = 'n'
)

// String returns default, full, index or nothing.
func (i Identity) String() string {
	switch i {
	case IdentityDefault:
		return "default"
	case IdentityFull:
		return "full"
	case IdentityIndex:
		return "index"
	case IdentityNothing:
		return "nothing"
	}
	return fmt.Sprintf("Identity(%q)", byte(i))
}

// MarshalText returns the catalog's letter.
func (i Identity) MarshalText() ([]byte, error) {
	if !i.known() {
		return nil, fmt.Errorf("unknown replica identity %q", byte(i))
	}
	return []byte{byte(i)}, nil
}

// UnmarshalText reads what MarshalText wrote.
func (i *Identity) UnmarshalText(b []byte) error {
	if len(b) != 1 || !Identity(b[0]).known() {
		return fmt.Errorf("unknown replica identity %q", b)
	}
	*i = Identity(b[0])
	return nil
}

func (i Identity) known() bool {
	switch i {
	case IdentityDefault, IdentityFull, IdentityIndex, IdentityNothing:
		return true
	}
	return false
}

// Column is one column of a relation as the stream describes it.
type Column struct {
	Name string `json:"name"`
	// Type is the OID of the column's type; that of a domain where the column has one.
	Type uint32 `json:"type"`
	// Mod is pg_attribute.atttypmod; -1 where the type has none.
	Mod int32 `json:"mod"`
	// Key says that the column is part of the replica identity. With identity full the server sets it on every column.
	Key bool `json:"key,omitempty"`
}

// Relation is one version of a table as the stream describes it: its sent columns, without dropped and unpublished
// ones (generated columns are among these unless an 18 or newer is asked for them). It is immutable, and its pointer is the version: Decode hands out the same pointer for as long as
// nothing differs, so what is derived from a relation can be kept in a map by pointer.
type Relation struct {
	ID       uint32   `json:"id"` // OID of the table; of the root where it is published through its root
	Schema   string   `json:"schema"`
	Name     string   `json:"name"`
	Identity Identity `json:"identity"`
	Columns  []Column `json:"columns"`
}

// String returns schema.name, unquoted: for people.
func (r *Relation) String() string { return r.Schema + "." + r.Name }

// Equal says whether both describe the same version, as a relation that was saved and read back is to be found again.
func (r *Relation) Equal(o *Relation) bool {
	return r.ID == o.ID && r.Schema == o.Schema && r.Name == o.Name && r.Identity == o.Identity &&
		slices.Equal(r.Columns, o.Columns)
}
