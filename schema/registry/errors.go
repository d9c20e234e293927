package registry

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Error is what the registry answers when it does not do what it was asked for: Confluent's error code, whose first
// three digits are the HTTP status, and Confluent's message (rest/exceptions/Errors.java).
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string { return e.Message }

// Status is the HTTP status.
func (e *Error) Status() int {
	s := e.Code
	for s >= 1000 {
		s /= 10
	}
	return s
}

// Error codes, https://docs.confluent.io/platform/current/schema-registry/develop/api.html#errors.
const (
	CodeSubjectNotFound       = 40401
	CodeVersionNotFound       = 40402
	CodeSchemaNotFound        = 40403
	CodeSubjectSoftDeleted    = 40404
	CodeSubjectNotSoftDeleted = 40405
	CodeVersionSoftDeleted    = 40406
	CodeVersionNotSoftDeleted = 40407
	CodeLevelNotConfigured    = 40408
	CodeModeNotConfigured     = 40409
	CodeIncompatible          = 40901
	CodeInvalidSchema         = 42201
	CodeInvalidVersion        = 42202
	CodeInvalidLevel          = 42203
	CodeInvalidMode           = 42204
	CodeNotPermitted          = 42205
	CodeReferenceExists       = 42206
	CodeInvalidSubject        = 42208
	CodeSchemaTooLarge        = 42209
	CodeContextNotEmpty       = 42211
	CodeStore                 = 50001
	CodeTimeout               = 50002
	CodeNoLeader              = 50004
	// CodeReadOnly is ours: writes need authentication.
	CodeReadOnly = 40301
)

func errorf(code int, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func subjectNotFound(subject string) *Error {
	return errorf(CodeSubjectNotFound, "Subject '%s' not found.", subject)
}

func versionNotFound(version int) *Error {
	return errorf(CodeVersionNotFound, "Version %d not found.", version)
}

func schemaNotFound() *Error { return errorf(CodeSchemaNotFound, "Schema not found") }

func idNotFound(id int32) *Error { return errorf(CodeSchemaNotFound, "Schema %d not found", id) }

func guidNotFound(guid string) *Error {
	return errorf(CodeSchemaNotFound, "Schema %s not found", clip(guid, 80))
}

func invalidVersion(version string) *Error {
	return errorf(CodeInvalidVersion, `The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string "latest"`, clip(version, 80))
}

func invalidSubject(subject string) *Error {
	return errorf(CodeInvalidSubject, "The specified subject '%s' is not a valid.", clip(subject, 200))
}

func invalidSchema(err error) *Error {
	return errorf(CodeInvalidSchema, "Invalid schema: %v", err)
}

func invalidLevel() *Error {
	return errorf(CodeInvalidLevel, "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive")
}

// IncompatibleError says that a schema may not follow the versions of its subject.
type IncompatibleError struct {
	Subject  string
	Level    Level
	Findings []Finding // empty where only an external registry's text is known
	Detail   string    // the registry's text
}

func (e *IncompatibleError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return fmt.Sprintf("Schema being registered is incompatible with an earlier schema for subject \"%s\", details: [%s]", e.Subject, strings.Join(e.messages(), ", "))
}

// messages are the findings in Confluent's form, the level last.
func (e *IncompatibleError) messages() []string { return messages(e.Level, e.Findings, "") }

// Refused tells a caller that trying the same again will not help.
func (e *IncompatibleError) Refused() bool { return true }

// Hint is the way on.
func (e *IncompatibleError) Hint() string {
	return fmt.Sprintf("make the change in steps that level %s allows, or set another level for subject %s", e.level(), e.Subject)
}

// Rules are the rules that the schema breaks, one text each: the field where it is known, the rule by Avro's name for it,
// what differs, and the path through the schema.
func (e *IncompatibleError) Rules() []string {
	var list []string
	for _, m := range finding.FindAllStringSubmatch(e.Error(), -1) {
		kind, description, info, field := m[1], m[2], m[3], m[4]
		path := ""
		if p := pathInText.FindStringSubmatch(description); p != nil {
			path = p[1]
		}
		var rule string
		switch name := fieldInText.FindStringSubmatch(description); {
		case strings.Contains(field, ": "):
			rule = "field " + field
		case field != "":
			rule = "field " + field + ": " + kind + " " + info
		case name != nil:
			rule = "field " + name[1] + ": " + kind
		default:
			rule = kind + " " + info
		}
		if path != "" {
			rule += " (at " + path + ")"
		}
		if !slices.Contains(list, rule) {
			list = append(list, rule)
		}
	}
	return list
}

var (
	// finding is one of the texts that Confluent's registry and ours answer with; only ours name the field at its end.
	finding    = regexp.MustCompile(`(?s)\{errorType:'([A-Z_]+)', description:'(.*?)', additionalInfo:'(.*?)'(?:, field:'(.*?)')?\}`)
	pathInText = regexp.MustCompile(`path '([^']*)'`)
)

func (e *IncompatibleError) level() string {
	if e.Level == "" {
		return "of the subject"
	}
	return string(e.Level)
}

// Refused tells whether trying the same again is useless: the registry understood and said no.
func (e *Error) Refused() bool { return e.Status() < 500 && e.Code != CodeReadOnly }

// messages ends the findings with what Confluent adds to them. It leaves the old schema out where the types differ, and where under a
// full level the new schema is not the reader that fails (SchemaValidatorBuilder).
func messages(level Level, findings []Finding, oldSchema string) []string {
	if len(findings) == 0 {
		return nil
	}
	var list []string
	for _, f := range findings {
		list = append(list, f.String())
	}
	last := findings[len(findings)-1]
	if last.Type != differentSchemaTypes && (last.ReaderIsNew || !level.full()) {
		if last.Version > 0 {
			list = append(list, fmt.Sprintf("{oldSchemaVersion: %d}", last.Version))
		}
		const most = 10 << 10
		if len(oldSchema) > most {
			list = append(list, fmt.Sprintf("{oldSchema: <truncated> '%s...'}", strings.TrimSuffix(clip(oldSchema, most), "…")))
		} else if oldSchema != "" {
			list = append(list, fmt.Sprintf("{oldSchema: '%s'}", oldSchema))
		}
	}
	return append(list, fmt.Sprintf("{validateFields: 'false', compatibility: '%s'}", level))
}
