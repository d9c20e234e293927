-- Values stored out of line: updated beside, replaced, and under a key change and identity full.
-- options: binary=true
-- setup
CREATE TABLE docs (id int PRIMARY KEY, body text, n int);
ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
CREATE TABLE full_docs (id int PRIMARY KEY, body text, n int);
ALTER TABLE full_docs ALTER body SET STORAGE EXTERNAL;
ALTER TABLE full_docs REPLICA IDENTITY FULL;
-- run
INSERT INTO docs VALUES (1, repeat('x', 2100), 0);
UPDATE docs SET n = 1 WHERE id = 1;
UPDATE docs SET id = 2 WHERE id = 1;
UPDATE docs SET body = repeat('y', 2100) WHERE id = 2;
UPDATE docs SET body = NULL WHERE id = 2;
INSERT INTO full_docs VALUES (1, repeat('z', 2100), 0);
UPDATE full_docs SET n = 1 WHERE id = 1;
DELETE FROM full_docs WHERE id = 1;
