-- Each replica identity: what update, key update and delete bring of the old row.
-- options: binary=true
-- setup
CREATE TABLE by_default (id int PRIMARY KEY, v text);
CREATE TABLE by_full (id int PRIMARY KEY, v text);
ALTER TABLE by_full REPLICA IDENTITY FULL;
CREATE TABLE by_index (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, v text);
CREATE UNIQUE INDEX by_index_ab ON by_index (b, a);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_ab;
CREATE TABLE keyless (v text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE inserts_only (v text);
-- run
INSERT INTO by_default VALUES (1, 'a');
UPDATE by_default SET v = 'b' WHERE id = 1;
UPDATE by_default SET id = 2 WHERE id = 1;
DELETE FROM by_default WHERE id = 2;
INSERT INTO by_full VALUES (1, 'a');
UPDATE by_full SET v = NULL WHERE id = 1;
DELETE FROM by_full WHERE id = 1;
INSERT INTO by_index VALUES (1, 10, 'x', 'a');
UPDATE by_index SET v = 'b' WHERE id = 1;
UPDATE by_index SET a = 11 WHERE id = 1;
DELETE FROM by_index WHERE id = 1;
INSERT INTO keyless VALUES ('a'), ('a');
UPDATE keyless SET v = 'b';
DELETE FROM keyless;
INSERT INTO inserts_only VALUES ('a');
