package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// BackfillTimeout is how long a command about copies may take to be saved.
const BackfillTimeout = time.Minute

// BackfillRequest is the body of POST /backfill/start, /pause, /resume and /cancel.
type BackfillRequest struct {
	Tables []string `json:"tables,omitempty"` // as schema.table
	All    bool     `json:"all,omitempty"`    // instead of tables
	Where  string   `json:"where,omitempty"`  // to start: a condition in SQL
	Force  bool     `json:"force,omitempty"`  // to start: also where a copy is under way
}

// BackfillReply is the answer: what was asked is saved.
type BackfillReply struct {
	Tables []BackfillTable `json:"tables"`
}

// BackfillTable is what has become of one table.
type BackfillTable struct {
	Table      string `json:"table"`
	Generation uint32 `json:"generation"`
	State      string `json:"state"`
	Note       string `json:"note,omitempty"` // what is to be known of it
}

// Problem is the answer where nothing was done, or nobody knows whether it was.
type Problem struct {
	Code   int    `json:"-"` // of HTTP
	Text   string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
}

// backfill serves one command. The listener has no authentication, so whoever reaches it may ask; but a page in somebody's browser
// does not count, even one that makes the browser take the listener for its own server: browsers send Origin with every POST, and no
// program does that this is for.
func backfill(c Config, do string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var b BackfillRequest
		if p := backfillRequest(r, &b); p != nil {
			answer(c, w, p.Code, p)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), BackfillTimeout)
		defer cancel()
		reply, p := c.Backfill(ctx, do, b)
		if p != nil {
			answer(c, w, p.Code, p)
			return
		}
		answer(c, w, http.StatusOK, reply)
	}
}

func backfillRequest(r *http.Request, b *BackfillRequest) *Problem {
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return &Problem{Code: http.StatusForbidden, Text: "a page in a browser may not ask this", Remedy: "use walferry backfill, or a program of your own"}
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &Problem{Code: http.StatusUnsupportedMediaType, Text: "the body is not said to be JSON", Remedy: "send Content-Type: application/json"}
	}
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	d.DisallowUnknownFields()
	err := d.Decode(b)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return &Problem{Code: http.StatusBadRequest, Text: fmt.Sprintf("the body is no command: %v", err), Remedy: `send an object with tables or all, such as {"tables": ["public.orders"]}`}
	}
	return nil
}
