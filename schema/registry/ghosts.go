package registry

import "slices"

// ghosts are aborted records after which nothing was committed under the same key: a Confluent registry may have
// acted on them, and only they say that their ids are taken.
type ghosts struct {
	order []string
	last  map[string]Entry
}

func (g *ghosts) add(s *state, e Entry) {
	k, err := parseKey(e.Key)
	if err != nil || k.keytype == keyNoop {
		return
	}
	if k.keytype == keySchema && e.Value != nil {
		if r, err := parseSchemaRecord(e.Value); err == nil {
			s.given(contextOf(k.subject), r.id)
		}
	}
	g.settle(e.Key)
	if g.last == nil {
		g.last = map[string]Entry{}
	}
	g.last[string(e.Key)] = e
	g.order = append(g.order, string(e.Key))
}

func (g *ghosts) settle(key []byte) {
	if _, ok := g.last[string(key)]; ok {
		delete(g.last, string(key))
		g.order = slices.DeleteFunc(g.order, func(k string) bool { return k == string(key) })
	}
}

// records returns what is to be published again. A registration whose id or version has meanwhile been given to
// another schema stays lost: that is how the log was decided, by Confluent's rule as well.
func (g *ghosts) records(s *state) []Record {
	var list []Record
	for _, key := range g.order {
		e := g.last[key]
		k, err := parseKey(e.Key)
		if err != nil {
			continue
		}
		if k.keytype == keySchema {
			sub := s.subjects[k.subject]
			if e.Value == nil {
				if sub == nil || sub.version(k.version) == nil {
					continue
				}
			} else {
				r, err := parseSchemaRecord(e.Value)
				if err != nil {
					continue
				}
				entry := s.context(contextOf(k.subject)).ids[r.id]
				if entry != nil && entry.text != r.text {
					continue
				}
				if sub != nil && sub.version(k.version) != nil && sub.version(k.version).id != r.id {
					continue
				}
			}
		}
		list = append(list, Record{e.Key, e.Value})
	}
	if len(list) > 0 {
		// A deletion must not come true without the record of the highest id that was aborted beside it.
		list = append([]Record{s.highID()}, list...)
	}
	return list
}
