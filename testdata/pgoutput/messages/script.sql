-- Logical messages: in a transaction of their own, among rows, not transactional, empty, and rolled back.
-- options: binary=true
-- setup
CREATE TABLE t (id int PRIMARY KEY);
-- run
SELECT pg_logical_emit_message(true, 'walferry.heartbeat', '');
SELECT pg_logical_emit_message(false, 'other', 'not transactional');
BEGIN;
INSERT INTO t VALUES (1);
SELECT pg_logical_emit_message(true, 'walferry.context', '{"traceparent":"00-1"}');
INSERT INTO t VALUES (2);
SELECT pg_logical_emit_message(false, 'other', 'overtakes its transaction');
SELECT pg_logical_emit_message(true, 'prefix é', '\x00ff00'::bytea);
COMMIT;
BEGIN;
SELECT pg_logical_emit_message(true, 'walferry.context', 'rolled back');
INSERT INTO t VALUES (3);
ROLLBACK;
