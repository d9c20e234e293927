package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// Subjects lists the names of all subjects in their order; with deleted also those whose versions are all deleted.
func (c *Client) Subjects(ctx context.Context, deleted bool) ([]string, error) {
	n, err := c.do(ctx, http.MethodGet, []string{"subjects"}, deletedToo(deleted), nil)
	if err != nil {
		return nil, err
	}
	if n.kind != arrayNode {
		return nil, &UnavailableError{c.base.Redacted(), errors.New("the answer for subjects is no list")}
	}
	list := stringItems(n)
	slices.Sort(list)
	return list, nil
}

// Versions lists the versions of a subject, ascending; with deleted also the deleted ones. *Error with 40401 for a
// subject that is not there.
func (c *Client) Versions(ctx context.Context, subject string, deleted bool) ([]int, error) {
	n, err := c.do(ctx, http.MethodGet, []string{"subjects", subject, "versions"}, deletedToo(deleted), nil)
	if err != nil {
		return nil, err
	}
	list := make([]int, 0, len(n.list))
	for _, item := range n.list {
		if v, err := strconv.ParseInt(item.text, 10, 32); err == nil && item.isInteger() && n.kind == arrayNode {
			list = append(list, int(v))
		}
	}
	if n.kind != arrayNode || len(list) < len(n.list) {
		return nil, &UnavailableError{c.base.Redacted(), fmt.Errorf("the answer for the versions of %s is no list of numbers", clip(subject, 80))}
	}
	slices.Sort(list)
	return list, nil
}

// Version returns one version of a subject, with the references of an Avro schema written into it; version is a number
// or "latest". Deleted is not filled in: registries do not say it here.
func (c *Client) Version(ctx context.Context, subject, version string, deleted bool) (Registered, error) {
	query := deletedToo(deleted)
	query.Set("format", "resolved")
	n, err := c.do(ctx, http.MethodGet, []string{"subjects", subject, "versions", version}, query, nil)
	if err != nil {
		return Registered{}, err
	}
	r := Registered{Subject: subject, Type: TypeAvro}
	if t, ok := n.str("schemaType"); ok {
		r.Type = t
	}
	id, ok1 := n.integer("id")
	v, ok2 := n.integer("version")
	text, ok3 := n.str("schema")
	if !ok1 || !ok2 || !ok3 {
		return Registered{}, &UnavailableError{c.base.Redacted(), fmt.Errorf("the answer for a version of %s has no id, version and schema", clip(subject, 80))}
	}
	r.ID, r.Version, r.Schema = id, int(v), text
	return r, nil
}

func deletedToo(deleted bool) url.Values {
	if deleted {
		return url.Values{"deleted": {"true"}}
	}
	return url.Values{}
}

// local answers requests in this process.
type local struct{ handler http.Handler }

func (l local) RoundTrip(r *http.Request) (*http.Response, error) {
	w := localResponse{header: http.Header{}, status: http.StatusOK}
	l.handler.ServeHTTP(&w, r)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: bodyOf{bytes.NewReader(w.body.Bytes())}, ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

type bodyOf struct{ *bytes.Reader }

func (bodyOf) Close() error { return nil }

type localResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *localResponse) Header() http.Header         { return w.header }
func (w *localResponse) WriteHeader(status int)      { w.status = status }
func (w *localResponse) Write(b []byte) (int, error) { return w.body.Write(b) }
