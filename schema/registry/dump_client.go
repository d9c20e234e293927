package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// dumpPage is how many versions one answer of GET /schemas is asked to have.
const dumpPage = 200

// Dump reads all that a registry holds, through its API. What that does not tell is missing: a configuration or mode
// of a subject that has no schema, and the highest id ever given where the registry does not know fetchMaxId; then it
// is the highest that is there.
func (c *Client) Dump(ctx context.Context) (*Dump, error) { return c.dump(ctx, newDump()) }

// dump also asks for the configurations and modes that like has.
func (c *Client) dump(ctx context.Context, like *Dump) (*Dump, error) {
	d := newDump()
	live := map[string]bool{}
	at := func(r schemaRecord) string { return strconv.Itoa(r.version) + " " + r.subject }
	err := c.eachSchema(ctx, false, func(r schemaRecord) { live[at(r)] = true })
	if err != nil {
		return nil, err
	}
	scopes := []string{"", ":" + globalContext + ":"}
	err = c.eachSchema(ctx, true, func(r schemaRecord) {
		r.deleted = !live[at(r)]
		d.schemas = append(d.schemas, r)
	})
	if err != nil {
		return nil, err
	}
	d.sort()
	contexts, err := c.do(ctx, http.MethodGet, []string{"contexts"}, nil, nil)
	if err != nil {
		return nil, err
	}
	for _, n := range contexts.list {
		if n.text != defaultContext && n.kind == stringNode {
			d.maxIDs[n.text] = 0
			scopes = append(scopes, ":"+n.text+":")
		}
	}
	for i, r := range d.schemas {
		d.maxIDs[contextOf(r.subject)] = max(d.maxIDs[contextOf(r.subject)], r.id)
		if i == 0 || d.schemas[i-1].subject != r.subject {
			scopes = append(scopes, r.subject)
		}
	}
	asked := map[string]bool{}
	for _, r := range d.schemas {
		if name := contextOf(r.subject); !asked[name] {
			asked[name] = true
			n, err := c.do(ctx, http.MethodGet, []string{"schemas", "ids", strconv.Itoa(int(r.id))}, url.Values{"subject": {r.subject}, "fetchMaxId": {"true"}}, nil)
			if err != nil {
				return nil, err
			}
			id, _ := n.integer("maxId")
			d.maxIDs[name] = max(d.maxIDs[name], id)
		}
	}
	scopes = slices.AppendSeq(slices.AppendSeq(scopes, maps.Keys(like.configs)), maps.Keys(like.modes))
	slices.Sort(scopes)
	for _, name := range slices.Compact(scopes) {
		if n, err := c.setting(ctx, "config", name); err != nil {
			return nil, err
		} else if n != nil {
			d.setConfig(name, n)
		}
		n, err := c.setting(ctx, "mode", name)
		if err != nil {
			return nil, err
		}
		if mode, ok := n.str("mode"); ok {
			d.setMode(name, Mode(mode))
		}
	}
	return d, d.consistent(map[idKey]schemaRecord{})
}

// eachSchema goes through all versions of all subjects.
func (c *Client) eachSchema(ctx context.Context, deleted bool, fn func(schemaRecord)) error {
	for offset := 0; ; {
		page, err := c.do(ctx, http.MethodGet, []string{"schemas"}, url.Values{
			"subjectPrefix": {":*:"}, "deleted": {strconv.FormatBool(deleted)},
			"offset": {strconv.Itoa(offset)}, "limit": {strconv.Itoa(dumpPage)},
		}, nil)
		if err != nil {
			return err
		}
		for _, n := range page.list {
			r, err := parseSchemaRecord(n.bytes())
			if err != nil || r.subject == "" || r.version < 1 {
				return &UnavailableError{c.base.Redacted(), errors.New("the list of schemas cannot be read")}
			}
			r.extra = nil // guid, ts and what else belongs to the answer
			fn(r)
		}
		if len(page.list) == 0 {
			return nil
		}
		offset += len(page.list)
	}
}

// setting returns the configuration or mode that was set at exactly this place, nil where there is none.
func (c *Client) setting(ctx context.Context, what, name string) (*node, error) {
	n, err := c.do(ctx, http.MethodGet, settingPath(what, name), nil, nil)
	var e *Error
	if errors.As(err, &e) && e.Status() == http.StatusNotFound {
		return nil, nil
	}
	return n, err
}

func settingPath(what, name string) []string {
	if name == "" {
		return []string{what}
	}
	return []string{what, name}
}

// Import is Store.Import through the API of a registry: its subjects are in mode IMPORT while their schemas are
// brought, and have their mode after that. The highest id ever given cannot be brought: the registry counts on from the
// highest that is there.
func (c *Client) Import(ctx context.Context, d *Dump) (entries int, err error) {
	have, err := c.dump(ctx, d)
	if err != nil {
		return 0, err
	}
	todo, err := d.without(have)
	if err != nil {
		return 0, err
	}
	clear(todo.maxIDs)
	order, err := inOrder(todo.schemas)
	if err != nil {
		return 0, err
	}
	importing := map[string]bool{}
	for _, r := range order {
		if !importing[r.subject] && have.modes[r.subject] != Import {
			if err := c.setMode(ctx, r.subject, Import); err != nil {
				return 0, err
			}
		}
		importing[r.subject] = true
	}
	for _, r := range order {
		if err := c.bring(ctx, r); err != nil {
			return 0, fmt.Errorf("version %d of subject %s: %w", r.version, r.subject, err)
		}
	}
	for _, r := range slices.Backward(order) { // what refers goes before what it refers to
		if r.deleted {
			if _, err := c.do(ctx, http.MethodDelete, []string{"subjects", r.subject, "versions", strconv.Itoa(r.version)}, nil, nil); err != nil {
				return 0, fmt.Errorf("delete version %d of subject %s: %w", r.version, r.subject, err)
			}
		}
	}
	for name, n := range todo.configs {
		body := &node{kind: objectNode}
		for i, k := range n.keys {
			if k == "compatibilityLevel" {
				k = "compatibility"
			}
			body.set(k, n.list[i])
		}
		if _, err := c.do(ctx, http.MethodPut, settingPath("config", name), nil, body); err != nil {
			return 0, fmt.Errorf("configuration of %s: %w", scopeLabel(name), err)
		}
	}
	return todo.Len(), c.importModes(ctx, d, have, todo, importing)
}

// importModes ends the mode IMPORT of the subjects that were brought, now or by an import before that did not end, and
// sets the modes that d has.
func (c *Client) importModes(ctx context.Context, d, have, todo *Dump, importing map[string]bool) error {
	for _, r := range d.schemas {
		if have.modes[r.subject] == Import {
			importing[r.subject] = true
		}
	}
	for name := range importing {
		mode, wanted := d.modes[name]
		if before, ok := have.modes[name]; !wanted && ok && before != Import {
			mode = before
		}
		if mode != Import {
			if err := c.setMode(ctx, name, mode); err != nil {
				return err
			}
		}
	}
	for name, mode := range todo.modes {
		if !importing[name] {
			if err := c.setMode(ctx, name, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// setMode sets a mode; "" takes it away.
func (c *Client) setMode(ctx context.Context, name string, mode Mode) error {
	method, body := http.MethodPut, &node{kind: objectNode}
	if mode == "" {
		method, body = http.MethodDelete, nil
	} else {
		body.set("mode", &node{kind: stringNode, text: string(mode)})
	}
	_, err := c.do(ctx, method, settingPath("mode", name), url.Values{"force": {"true"}}, body)
	var e *Error
	if mode == "" && errors.As(err, &e) && e.Status() == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mode of %s: %w", scopeLabel(name), err)
	}
	return nil
}

// bring registers a version with its id.
func (c *Client) bring(ctx context.Context, r schemaRecord) error {
	body, err := parseJSON(string(r.bytes()))
	if err != nil {
		return err
	}
	for i, k := range body.keys {
		if k == "subject" || k == "deleted" || k == "md5" {
			body.list[i] = &node{kind: nullNode}
		}
	}
	answer, err := c.do(ctx, http.MethodPost, []string{"subjects", r.subject, "versions"}, nil, body)
	if err != nil {
		return err
	}
	if id, _ := answer.integer("id"); id != r.id {
		return fmt.Errorf("the registry gave it the id %d instead of %d", id, r.id)
	}
	return nil
}

// inOrder puts versions behind those that they refer to.
func inOrder(list []schemaRecord) ([]schemaRecord, error) {
	bySubject := map[string][]int{}
	for i, r := range list {
		bySubject[r.subject] = append(bySubject[r.subject], i)
	}
	var out []schemaRecord
	state := make([]byte, len(list)) // 1: begun, 2: done
	var visit func(i, depth int) error
	visit = func(i, depth int) error {
		r := list[i]
		if state[i] == 2 {
			return nil
		}
		if state[i] == 1 || depth > maxDepth {
			return fmt.Errorf("version %d of subject %s refers to itself", r.version, r.subject)
		}
		state[i] = 1
		for _, ref := range r.references {
			for _, k := range bySubject[inContextOf(r.subject, ref.Subject)] {
				if k != i && (list[k].version == ref.Version || ref.Version == -1) {
					if err := visit(k, depth+1); err != nil {
						return err
					}
				}
			}
		}
		state[i] = 2
		out = append(out, r)
		return nil
	}
	for i := range list {
		if err := visit(i, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}
