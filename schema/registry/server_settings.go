package registry

import (
	"slices"
	"strings"
)

// subject is the variable of /config/* and /mode/*; "" stands for all subjects.
func (c *call) subject() string {
	if len(c.arg) == 0 {
		return ""
	}
	return c.arg[0]
}

func (c *call) config() (any, error) {
	n, ok := c.store.config(c.subject(), c.flag("defaultToGlobal"))
	if !ok {
		return nil, errorf(CodeLevelNotConfigured, "Subject '%s' does not have subject-level compatibility configured", clip(c.subject(), 200))
	}
	return n, nil
}

// configFields are the members of ConfigUpdateRequest with their types; compatibility is stored as compatibilityLevel.
var configFields = map[string][]nodeKind{
	"compatibility":       {stringNode},
	"alias":               {stringNode},
	"aliasForDeks":        {stringNode},
	"normalize":           {trueNode, falseNode},
	"validateFields":      {trueNode, falseNode},
	"validateNewSchemas":  {trueNode, falseNode},
	"validateRules":       {trueNode, falseNode},
	"compatibilityPolicy": {stringNode},
	"compatibilityGroup":  {stringNode},
	"defaultMetadata":     {objectNode},
	"overrideMetadata":    {objectNode},
	"defaultRuleSet":      {objectNode},
	"overrideRuleSet":     {objectNode},
}

func (c *call) setConfig() (any, error) {
	var changes []prop
	var echo object
	for i, k := range c.body.keys {
		kinds, known := configFields[k]
		v := c.body.list[i]
		switch {
		case !known:
			continue
		case v.kind != nullNode && !slices.Contains(kinds, v.kind):
			return nil, errorf(400, "the body cannot be read: %s has the wrong type", k)
		}
		name := k
		if k == "compatibility" {
			name = "compatibilityLevel"
			if v.kind == stringNode {
				level, ok := ParseLevel(v.text)
				if !ok {
					return nil, invalidLevel()
				}
				v = &node{kind: stringNode, text: string(level)}
			}
		}
		changes = append(changes, prop{name, v})
		echo = append(echo, k, v)
	}
	if _, err := c.store.setConfig(c.r.Context(), c.subject(), changes); err != nil {
		return nil, err
	}
	return echo, nil
}

func (c *call) deleteConfig() (any, error) {
	return c.store.deleteConfig(c.r.Context(), c.subject())
}

func (c *call) mode() (any, error) {
	mode, own := c.store.Mode(c.subject())
	if !own && !c.flag("defaultToGlobal") {
		return nil, errorf(CodeModeNotConfigured, "Subject '%s' does not have subject-level mode configured", clip(c.subject(), 200))
	}
	return object{"mode", string(mode)}, nil
}

// setMode knows no FORWARD: that is how Confluent's exporters pass schemas on to another registry.
func (c *call) setMode() (any, error) {
	var mode Mode
	answer := object{}
	if m := orNil(c.body.member("mode")); m != nil {
		ok := m.kind == stringNode
		if !ok {
			return nil, errorf(400, "the body cannot be read: mode has the wrong type")
		}
		if mode, ok = ParseMode(m.text); !ok {
			return nil, &Error{CodeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE and IMPORT."}
		}
		answer = object{"mode", m}
	}
	if err := c.store.SetMode(c.r.Context(), c.subject(), mode, c.flag("force")); err != nil {
		return nil, err
	}
	return answer, nil
}

func (c *call) deleteMode() (any, error) {
	old, err := c.store.DeleteMode(c.r.Context(), c.subject(), c.flag("recursive"))
	if err != nil || old == "" {
		return object{}, err
	}
	return object{"mode", string(old)}, nil
}

func (c *call) contexts() (any, error) {
	prefix := c.query.Get("contextPrefix")
	return anySlice(page(c, slices.DeleteFunc(c.store.Contexts(), func(name string) bool { return !strings.HasPrefix(name, prefix) })))
}

func (c *call) deleteContext() (any, error) {
	return noContent{}, c.store.DeleteContext(c.r.Context(), c.arg[0])
}

func (c *call) clusterID() (any, error) {
	return object{"id", "", "scope", object{"path", []any{}, "clusters", object{"kafka-cluster", c.cfg.ClusterID, "schema-registry-cluster", "schema-registry"}}}, nil
}

func (c *call) serverVersion() (any, error) {
	return object{"version", "walferry " + c.cfg.Version, "commitId", ""}, nil
}
