package main

import (
	"testing"
	"time"

	"walferry/internal/admin"
)

func TestCopyLines(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	started := now.Add(-10 * time.Second)
	got := copyLines([]admin.CopyStatus{
		{Table: "public.a", State: "done", Rows: 10},
		{Table: "public.b", State: "cancelled"},
		{Table: "public.c", State: "copying", Rows: 1000, Estimated: 4000, Ranges: 4, RangesDone: 1, Started: &started},
		{Table: "public.d", State: "waiting", Waits: "prepared transaction 'x' (XID 7) is open since before the copy"},
		{Table: "public.e", State: "waiting"},
	}, now)
	want := []string{
		"public.c: copying, 1000 rows of about 4000 (25 %), 100 rows/s, about 30s left, 1 of 4 ranges",
		"public.d: waiting, 0 rows; it waits: prepared transaction 'x' (XID 7) is open since before the copy",
		"1 more table to come",
		"2 tables copied, 10 rows",
	}
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != [2]string{"backfill", want[i]} {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
}
