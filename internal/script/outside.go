package script

import (
	"slices"
	"strings"
)

// Where is where a script is tried.
type Where int

const (
	// InTransaction is a transaction of the database itself, which is rolled back.
	InTransaction Where = iota
	// InScratch is a database that was made for it and is dropped; each statement is a transaction.
	InScratch
)

// Outside says why a statement must not be run there: it would end the transaction, or do something that is neither rolled
// back nor dropped with the database. "" for one that may be tried. Statements that the server itself refuses inside of a
// transaction (VACUUM, CREATE INDEX CONCURRENTLY) are not named: it does that before anything else, with SQLSTATE 25001.
//
// It looks at words, those of a DO block included, and not at what the functions do that are called.
func (s *Statement) Outside(where Where) string {
	switch {
	case s.copies():
		return "data is not part of a plan, and what COPY does to files and programs is not undone"
	case s.prepared():
		return "a prepared transaction outlives the session"
	case s.word(0) == "load", s.word(0) == "checkpoint", s.word(1) == "subscription" && s.ddl(), s.ddl() && s.word(1) == "system":
		return "it acts on the server, not on the database"
	}
	for i, w := range s.all {
		message := w == "pg_logical_emit_message" && i+2 < len(s.all) && s.all[i+2] == "true" // transactional
		if !message && (slices.Contains(atOnce, w) || strings.HasPrefix(w, "dblink")) {
			return w + " acts at once, and is not undone"
		}
	}
	if where == InScratch {
		if s.shared() {
			return "it acts on the server, not on the scratch database alone"
		}
		return ""
	}
	switch {
	case s.transaction():
		return "the plan is one transaction, which is rolled back"
	case slices.Contains(s.all, "setval"):
		return "setval acts at once, and is not undone"
	}
	return ""
}

// atOnce are functions whose work no rollback undoes.
var atOnce = []string{
	"pg_logical_emit_message", "pg_create_logical_replication_slot", "pg_create_physical_replication_slot", "pg_drop_replication_slot",
	"pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot", "pg_replication_slot_advance",
	"pg_logical_slot_get_changes", "pg_logical_slot_get_binary_changes",
	"pg_terminate_backend", "pg_cancel_backend", "pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_promote",
	"pg_create_restore_point", "pg_wal_replay_pause", "pg_wal_replay_resume", "pg_stat_reset", "lo_export",
	"pg_file_write", "pg_file_unlink", "pg_file_rename", "pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup",
}

func (s *Statement) ddl() bool {
	return s.word(0) == "create" || s.word(0) == "alter" || s.word(0) == "drop"
}

// transaction says whether the statement begins or ends a transaction, or is about the one it is in.
func (s *Statement) transaction() bool {
	switch s.word(0) {
	case "begin", "start", "commit", "end", "abort", "discard":
		return true
	case "rollback":
		return !slices.Contains(s.words, "to") // to a savepoint
	case "set":
		// ALL constraints would include the one that keeps the plan from being committed, see source.Catalog.Rehearse.
		return s.word(1) == "transaction" || s.word(1) == "session" && s.word(2) == "characteristics" || s.word(1) == "constraints" && s.word(2) == "all"
	}
	return false
}

func (s *Statement) prepared() bool {
	switch s.word(0) {
	case "prepare":
		return s.word(1) == "transaction"
	case "commit", "rollback":
		return s.word(1) == "prepared"
	}
	return false
}

// Savepoint says whether the statement makes a savepoint, releases one or goes back to one.
func (s *Statement) Savepoint() bool {
	switch s.word(0) {
	case "savepoint", "release":
		return true
	case "rollback":
		return slices.Contains(s.words, "to")
	}
	return false
}

// copies says whether the statement is a COPY, other than from a file of the server.
func (s *Statement) copies() bool {
	return s.word(0) == "copy" && (s.copiesFromStdin() || slices.Contains(s.all, "program") || slices.Contains(s.all, "to"))
}

// shared says whether the statement changes what all databases of a server have in common.
func (s *Statement) shared() bool {
	common := func(w string) bool {
		return slices.Contains([]string{"role", "user", "group", "database", "tablespace"}, w)
	}
	for i := 0; i+1 < len(s.all); i++ {
		if i > 0 && s.word(0) != "do" {
			break
		}
		switch s.all[i] {
		case "create", "alter", "drop":
			if common(s.all[i+1]) && (i+2 == len(s.all) || s.all[i+2] != "mapping") {
				return true
			}
		}
	}
	switch s.word(0) {
	case "grant", "revoke":
		on := slices.Index(s.all, "on")
		return on < 0 || on+1 < len(s.all) && slices.Contains([]string{"database", "tablespace", "parameter"}, s.all[on+1])
	case "comment", "security":
		return slices.ContainsFunc(s.words, common) && !s.has("on", "user", "mapping")
	case "reassign":
		return true
	case "drop":
		return s.word(1) == "owned"
	}
	return false
}
