package main

import (
	"testing"

	"walferry/internal/admin"
)

func TestCopyLines(t *testing.T) {
	got := copyLines([]admin.CopyStatus{
		{Table: "public.a", State: "done", Rows: 10},
		{Table: "public.b", State: "cancelled"},
		{Table: "public.c", State: "copying", Rows: 1000, Estimated: 4000, Ranges: 4, RangesDone: 1, RowsPerSecond: 100, LeftSeconds: 30, Bytes: 2048},
		{Table: "public.d", State: "waiting", Waits: "prepared transaction 'x' (XID 7) is open since before the copy"},
		{Table: "public.e", State: "waiting", Turn: 1},
		{Table: "public.f", State: "skipped"},
	})
	want := []string{
		"public.c: copying, 1000 rows of about 4000 (25 %), 2 KiB, 100 rows/s, about 30s left, 1 of 4 ranges",
		"public.d: waiting, 0 rows; waits: prepared transaction 'x' (XID 7) is open since before the copy",
		"1 more table to come",
		"1 table copied, 10 rows",
		"2 tables not copied: 1 skipped, 1 cancelled; see walferry backfill status",
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
