package registry

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// object is a JSON object under construction: names and values in turn.
type object []any

// Media types of the API, best first (Versions.java).
var mediaTypes = []string{"application/vnd.schemaregistry.v1+json", "application/vnd.schemaregistry+json", "application/json"}

// accepted chooses the media type of the answer. Qualities are not weighed, beyond 0.
func accepted(headers []string) (string, bool) {
	list := strings.Split(strings.Join(headers, ","), ",")
	for _, media := range mediaTypes {
		for _, a := range list {
			name, params, err := mime.ParseMediaType(a)
			if strings.TrimSpace(a) == "" && len(list) == 1 {
				return mediaTypes[0], true
			}
			if q, qerr := strconv.ParseFloat(params["q"], 64); err != nil || qerr == nil && q == 0 {
				continue
			}
			if name == "*/*" || name == "application/*" || name == media {
				return media, true
			}
		}
	}
	return "", false
}

func respond(w http.ResponseWriter, media string, answer any) {
	status := http.StatusOK
	if r, ok := answer.(*relayed); ok {
		if r.media != "" {
			w.Header().Set("Content-Type", r.media)
			w.Header().Set("X-Content-Type-Options", "nosniff")
		}
		w.WriteHeader(r.status)
		_, _ = w.Write(r.body) // the client is gone: nobody to tell
		return
	}
	if e, ok := answer.(*Error); ok {
		status = e.Status()
		answer = object{"error_code", e.Code, "message", e.Message}
	}
	var b bytes.Buffer
	if text, ok := answer.(rawText); ok {
		b.WriteString(string(text))
	} else {
		appendAny(&b, answer)
	}
	if answer == (noContent{}) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client is gone: nobody to tell
}

// noContent is an answer without a body.
type noContent struct{}

// rawText is an answer that is JSON already.
type rawText string

// appendAny writes what the calls answer. encoding/json is not used because it escapes what Jackson does not.
func appendAny(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case object:
		b.WriteByte('{')
		for i := 0; i+1 < len(v); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			appendString(b, v[i].(string))
			b.WriteByte(':')
			appendAny(b, v[i+1])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			appendAny(b, item)
		}
		b.WriteByte(']')
	case *node:
		v.appendTo(b)
	case string:
		appendString(b, strings.ToValidUTF8(v, "\uFFFD"))
	case int:
		b.WriteString(strconv.Itoa(v))
	case int32:
		b.WriteString(strconv.Itoa(int(v)))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	}
}

func anySlice[T any](list []T, err error) (any, error) {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out, err
}

// page cuts a list by offset and limit.
func page[T any](c *call, list []T) ([]T, error) {
	offset, limit := 0, -1
	for name, v := range map[string]*int{"offset": &offset, "limit": &limit} {
		if text := c.query.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil {
				return nil, &Error{404, "HTTP 404 Not Found"} // what JAX-RS makes of a parameter that is no number
			}
			*v = int(n)
		}
	}
	list = list[min(max(offset, 0), len(list)):]
	if limit >= 0 {
		list = list[:min(limit, len(list))]
	}
	return list, nil
}

// asError gives every error of the store a code.
func asError(err error) *Error {
	var e *Error
	var i *IncompatibleError
	switch {
	case errors.As(err, &i):
		return &Error{CodeIncompatible, i.Error()}
	case errors.As(err, &e):
		return e
	}
	return errorf(CodeStore, "Error in the backend data store: %v", err)
}
