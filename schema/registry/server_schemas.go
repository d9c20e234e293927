package registry

import (
	"slices"
	"strconv"
)

func (r Registered) object() object {
	o := object{"subject", r.Subject, "version", r.Version, "id", r.ID, "guid", r.GUID, "schemaType", r.Type}
	return append(append(o, r.extras()...), "schema", r.Schema)
}

// byID leaves the id out: the caller has it.
func (r Registered) byID() object {
	o := object{"subject", r.Subject, "version", r.Version, "guid", r.GUID, "schemaType", r.Type, "schema", r.Schema}
	return append(o, r.extras()...)
}

func (r Registered) extras() object {
	var o object
	if len(r.References) > 0 {
		refs := make([]any, len(r.References))
		for i, ref := range r.References {
			refs[i] = object{"name", ref.Name, "subject", ref.Subject, "version", ref.Version}
		}
		o = append(o, "references", refs)
	}
	if r.metadata != nil {
		o = append(o, "metadata", r.metadata)
	}
	if r.ruleSet != nil {
		o = append(o, "ruleSet", r.ruleSet)
	}
	return o
}

func (c *call) listSchemas() (any, error) {
	var list []Registered
	all := c.store.Schemas(c.query.Get("subjectPrefix"))
	for i, r := range all {
		if r.Deleted && !c.flag("deleted") {
			continue
		}
		if rule := c.query.Get("ruleType"); rule != "" && !hasRule(r.ruleSet, rule) {
			continue
		}
		if c.flag("latestOnly") {
			newer := func(o Registered) bool { return o.Subject == r.Subject && (c.flag("deleted") || !o.Deleted) }
			if slices.ContainsFunc(all[i+1:], newer) {
				continue
			}
		}
		list = append(list, r)
	}
	list, err := page(c, list)
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = r.object()
	}
	return out, err
}

// hasRule tells whether a rule set has a rule of a type (ENCRYPT, CEL …).
func hasRule(ruleSet *node, typ string) bool {
	if ruleSet == nil {
		return false
	}
	for _, rules := range ruleSet.list {
		for _, rule := range rules.list {
			if name, _ := rule.str("type"); name == typ {
				return true
			}
		}
	}
	return false
}

// id reads the id of a path. What is no number is no path of the API.
func (c *call) id() (int32, error) {
	n, err := strconv.ParseInt(c.arg[0], 10, 32)
	if err != nil {
		return 0, &Error{404, "HTTP 404 Not Found"}
	}
	return int32(n), nil
}

func (c *call) byID() (Registered, error) {
	id, err := c.id()
	if err != nil {
		return Registered{}, err
	}
	r, err := c.store.ByID(id, c.query.Get("subject"))
	if err != nil {
		return Registered{}, err
	}
	r.Schema, err = c.format(r)
	return r, err
}

func (c *call) schemaByID() (any, error) {
	r, err := c.byID()
	if err != nil {
		return nil, err
	}
	o := r.byID()
	if c.flag("fetchMaxId") {
		o = append(o, "maxId", c.store.MaxID(c.query.Get("subject")))
	}
	return o, nil
}

func (c *call) textByID() (any, error) {
	r, err := c.byID()
	return rawText(r.Schema), err
}

func (c *call) schemaByGUID() (any, error) {
	r, err := c.store.ByGUID(c.arg[0])
	if err != nil {
		return nil, err
	}
	r.Schema, err = c.format(r)
	return r.byID(), err
}

func (c *call) idsOfGUID() (any, error) {
	contexts, ids := c.store.IDsOfGUID(c.arg[0])
	list := make([]any, len(ids))
	for i := range ids {
		list[i] = object{"context", contexts[i], "id", ids[i]}
	}
	if len(list) == 0 {
		return nil, guidNotFound(c.arg[0])
	}
	return list, nil
}

func (c *call) places() ([]Registered, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	list, err := c.store.Places(id, c.query.Get("subject"), c.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return page(c, list)
}

func (c *call) subjectsOfID() (any, error) {
	list, err := c.places()
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = r.Subject
	}
	return out, err
}

func (c *call) versionsOfID() (any, error) {
	list, err := c.places()
	out := make([]any, len(list))
	for i, r := range list {
		out[i] = object{"subject", r.Subject, "version", r.Version}
	}
	return out, err
}
