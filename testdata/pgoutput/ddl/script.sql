-- A table altered between and within transactions, back to what it was, renamed, dropped and made again.
-- options: binary=true
-- setup
CREATE TABLE t (id int PRIMARY KEY, a text);
-- run
INSERT INTO t VALUES (1, 'a');
COMMENT ON TABLE t IS 'sends the relation again, unchanged';
INSERT INTO t VALUES (2, 'a');
ALTER TABLE t ADD b int DEFAULT 7;
INSERT INTO t VALUES (3, 'a', 3);
ALTER TABLE t DROP a;
INSERT INTO t VALUES (4, 4);
BEGIN;
INSERT INTO t VALUES (5, 5);
ALTER TABLE t ALTER b TYPE bigint;
INSERT INTO t VALUES (6, 6);
ALTER TABLE t ADD c text;
UPDATE t SET c = 'c' WHERE id = 6;
COMMIT;
ALTER TABLE t RENAME TO t2;
INSERT INTO t2 VALUES (7, 7, 'c');
ALTER TABLE t2 REPLICA IDENTITY FULL;
DELETE FROM t2 WHERE id = 7;
DROP TABLE t2;
CREATE TABLE t (id int PRIMARY KEY, a text);
INSERT INTO t VALUES (1, 'a');
