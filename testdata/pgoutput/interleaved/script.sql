-- Two sessions: the transaction that commits last wrote first, so LSNs of frames fall from one transaction to the next.
-- options: binary=true
-- setup
CREATE TABLE t (id int PRIMARY KEY, v text);
-- run
-- session a
BEGIN;
INSERT INTO t VALUES (1, 'a');
-- session b
BEGIN;
INSERT INTO t VALUES (2, 'b');
-- session a
INSERT INTO t VALUES (3, 'a');
-- session b
INSERT INTO t VALUES (4, 'b');
COMMIT;
INSERT INTO t VALUES (5, 'b');
-- session a
UPDATE t SET v = 'aa' WHERE id = 1;
COMMIT;
