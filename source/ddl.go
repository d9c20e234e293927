package source

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"walferry/decode"
)

// DDLPrefix is the prefix of the messages that the event trigger of [DDLTriggerSQL] emits.
const DDLPrefix = MessagePrefix + "ddl"

// ddlTrigger names the event trigger, and its function in a schema of its own.
const (
	ddlTrigger  = "walferry_ddl"
	ddlSchema   = "walferry"
	ddlFunction = ddlSchema + ".emit_ddl"
)

// ddlVersion is the newest format of DDL messages that ParseDDL reads.
const ddlVersion = 1

// DDLTriggerSQL returns the SQL that a superuser runs once so that catalog facts come in the order of the WAL: an event trigger
// that, at the end of each command, emits what the catalog says of every table that the command has touched, itself or by a
// type, as a transactional logical message. It writes nothing else, never fails a command, and needs no rights of its users.
//
// Compiling its questions, for which the planner takes them to be worth it, made each command a second longer under its locks: jit
// is off in it.
func DDLTriggerSQL() string {
	return `-- Facts of the catalog in the order of the WAL: not-null, defaults, comments, labels of enums, attributes of composites.
-- To remove it: DROP EVENT TRIGGER ` + ddlTrigger + `; DROP SCHEMA ` + ddlSchema + ` CASCADE;
CREATE SCHEMA IF NOT EXISTS ` + ddlSchema + `;
CREATE OR REPLACE FUNCTION ` + ddlFunction + `() RETURNS event_trigger LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET client_min_messages = warning SET jit = off SET standard_conforming_strings = on AS $walferry$
DECLARE
	touched record;
	descriptor jsonb;
BEGIN
	FOR touched IN
		WITH RECURSIVE commands AS MATERIALIZED (
			SELECT classid, objid FROM pg_event_trigger_ddl_commands()
		), types(oid) AS (
			SELECT objid FROM commands WHERE classid = 'pg_type'::regclass
			UNION SELECT c.reltype FROM commands JOIN pg_class c ON c.oid = objid WHERE classid = 'pg_class'::regclass AND c.reltype <> 0
			-- Arrays, domains, ranges and multiranges depend on the types that they are of, and columns on theirs: those of tables
			-- and attributes of composites. Dependencies have an index, unlike the columns of pg_type and pg_attribute.
			UNION SELECT CASE d.classid WHEN 'pg_type'::regclass THEN d.objid ELSE c.reltype END
			FROM types u JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = u.oid
			LEFT JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
			WHERE d.classid = 'pg_type'::regclass OR d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.reltype <> 0
		), touching(oid) AS (
			SELECT objid FROM commands WHERE classid = 'pg_class'::regclass
			UNION SELECT d.objid FROM types u JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = u.oid
			WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0
		)
		SELECT c.oid, n.nspname, c.relname FROM touching t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
	LOOP
		EXECUTE $describe$` + describeTable + `$describe$ INTO descriptor USING touched.oid;
		PERFORM pg_logical_emit_message(true, '` + DDLPrefix + `', jsonb_build_object('v', ` + fmt.Sprint(ddlVersion) + `,
			'schema', touched.nspname, 'table', touched.relname, 'descriptor', descriptor)::text);
	END LOOP;
	-- A message has the LSN of what follows it. The handler below makes this a subtransaction, and a row of the transaction
	-- around it that followed at once, with the same LSN, would be sent before it.
	PERFORM pg_logical_emit_message(false, '` + DDLPrefix + `', '');
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING 'walferry: facts of this command were not sent: %', SQLERRM;
END $walferry$;
DROP EVENT TRIGGER IF EXISTS ` + ddlTrigger + `;
CREATE EVENT TRIGGER ` + ddlTrigger + ` ON ddl_command_end EXECUTE FUNCTION ` + ddlFunction + `();
ALTER EVENT TRIGGER ` + ddlTrigger + ` ENABLE ALWAYS;
`
}

// DDL is what a message of the event trigger says: how a table is described from that place of the WAL on.
type DDL struct {
	Schema     string             `json:"schema"`
	Table      string             `json:"table"`
	Descriptor *decode.Descriptor `json:"descriptor"`
}

// ParseDDL reads a message with prefix DDLPrefix. Any role can emit one, so an error is a reason to leave the message out, and
// what it says is to be believed of names and facts only: it never adds a column nor takes one away.
func ParseDDL(content []byte) (*DDL, error) {
	var m struct {
		V int `json:"v"`
		DDL
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, err
	}
	switch {
	case m.V < 1 || m.V > ddlVersion:
		return nil, fmt.Errorf("format %d is not known: the event trigger is of another version, run `walferry setup --ddl-trigger` again", m.V)
	case m.Table == "" || m.Descriptor == nil || m.Descriptor.Relation == 0:
		return nil, fmt.Errorf("it describes no table")
	}
	return &m.DDL, nil
}

// DDLTrigger says whether the event trigger is there and enabled.
func (c *Catalog) DDLTrigger(ctx context.Context) (ok bool, err error) {
	err = c.on(ctx, &c.ask, "look for event trigger", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, ddlTriggerThere, ddlTrigger).Scan(&ok)
	})
	return ok, err
}

const ddlTriggerThere = "SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = $1 AND evtenabled <> 'D')"

// EmitDDL emits, in one transaction, what the event trigger would say of these tables: the facts that the next commands change.
// A table that does not exist any more is left out.
func (c *Catalog) EmitDDL(ctx context.Context, relations []uint32) error {
	return c.on(ctx, &c.ask, "emit descriptions", func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, oid := range relations {
				_, err := tx.Exec(ctx, `SELECT pg_logical_emit_message(true, $2, jsonb_build_object('v', $3::int, 'schema', n.nspname,
					'table', t.relname, 'descriptor', (`+describeTable+`))::text)
					FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace WHERE t.oid = $1`, oid, DDLPrefix, ddlVersion)
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}
