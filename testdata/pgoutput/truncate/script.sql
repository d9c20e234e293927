-- TRUNCATE of one table, of two, cascading, restarting identity, and twice in a transaction with rows between.
-- options: binary=true
-- setup
CREATE TABLE a (id serial PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
CREATE TABLE c (id int PRIMARY KEY);
-- run
INSERT INTO a VALUES (1);
TRUNCATE c;
TRUNCATE a CASCADE;
TRUNCATE a, b, c RESTART IDENTITY;
BEGIN;
INSERT INTO c VALUES (1), (2);
TRUNCATE c;
INSERT INTO c VALUES (3);
TRUNCATE c, a RESTART IDENTITY CASCADE;
COMMIT;
