package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
)

func TestBackfillRequests(t *testing.T) {
	c := config(new(atomic.Bool))
	var asked []any
	c.Backfill = func(_ context.Context, do string, r BackfillRequest) (*BackfillReply, *Problem) {
		asked = append(asked, do, r)
		if r.Where == "bad" {
			return nil, &Problem{Code: http.StatusBadRequest, Text: "no", Remedy: "do"}
		}
		return &BackfillReply{Tables: []BackfillTable{{Table: "a.b", Generation: 2, State: "waiting"}}}, nil
	}
	h := Handler(c)
	for _, x := range []struct {
		method, path, body string
		header             map[string]string
		code               int
		says               string
		asks               []any
	}{
		{"POST", "/backfill/start", `{"tables": ["a.b"], "where": "x = 1", "force": true}`, nil, 200, `"generation": 2`,
			[]any{"start", BackfillRequest{Tables: []string{"a.b"}, Where: "x = 1", Force: true}}},
		{"POST", "/backfill/pause", `{"all": true}`, map[string]string{"Content-Type": "application/json; charset=utf-8"}, 200, `"state": "waiting"`,
			[]any{"pause", BackfillRequest{All: true}}},
		{"POST", "/backfill/cancel", `{"where": "bad"}`, nil, 400, `"remedy": "do"`, []any{"cancel", BackfillRequest{Where: "bad"}}},
		{"POST", "/backfill/resume", `{"all": true}`, map[string]string{"Origin": "http://elsewhere.example"}, 403, "browser", nil},
		{"POST", "/backfill/resume", `{"all": true}`, map[string]string{"Sec-Fetch-Site": "same-origin"}, 403, "browser", nil},
		{"POST", "/backfill/start", `all=true`, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json", nil},
		{"POST", "/backfill/start", `{"all": true}`, map[string]string{"Content-Type": "text/plain"}, 415, "application/json", nil},
		{"POST", "/backfill/start", `{"all": true}`, map[string]string{"Content-Type": ""}, 415, "application/json", nil},
		{"POST", "/backfill/start", `{"every": true}`, nil, 400, `unknown field \"every\"`, nil},
		{"POST", "/backfill/start", `{"all": true} {}`, nil, 400, "something follows", nil},
		{"POST", "/backfill/start", `{"tables": "a.b"}`, nil, 400, "no command", nil},
		{"POST", "/backfill/start", ``, nil, 400, "no command", nil},
		{"POST", "/backfill/stop", `{"all": true}`, nil, 404, "", nil},
		{"GET", "/backfill/start", ``, nil, 405, "", nil},
	} {
		asked = nil
		r := httptest.NewRequest(x.method, x.path, strings.NewReader(x.body))
		r.Header.Set("Content-Type", "application/json")
		for k, v := range x.header {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != x.code || !strings.Contains(w.Body.String(), x.says) || !reflect.DeepEqual(asked, x.asks) {
			t.Errorf("%s %s %s %v: %d %s, asked %v", x.method, x.path, x.body, x.header, w.Code, w.Body, asked)
		}
	}
	c.Backfill = nil
	if code, _ := get(t, Handler(c), "POST", "/backfill/start"); code != 404 && code != 405 {
		t.Errorf("without a pipeline: %d", code)
	}
}
