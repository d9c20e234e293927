-- The rows of a COPY share an LSN, those of an INSERT do not; savepoints; ON CONFLICT.
-- options: binary=true
-- setup
CREATE TABLE t (id int PRIMARY KEY, v text);
-- run
COPY t FROM STDIN;
1	a
2	b
3	c
4	d
\.
INSERT INTO t VALUES (5, 'e'), (6, 'f');
BEGIN;
INSERT INTO t VALUES (7, 'g');
SAVEPOINT s;
INSERT INTO t VALUES (8, 'rolled back');
ROLLBACK TO s;
INSERT INTO t VALUES (8, 'h');
RELEASE s;
INSERT INTO t VALUES (8, 'x'), (9, 'i') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v;
COMMIT;
