-- Rows of leaves go by their root; the leaf's relation is described too, and the root's again for each leaf.
-- options: binary=true
-- setup
CREATE TABLE events (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_25 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
-- A leaf with its columns in another order and a dropped one.
CREATE TABLE events_26 (gone int, v text, at date NOT NULL, id int NOT NULL, PRIMARY KEY (id, at));
ALTER TABLE events_26 DROP gone;
ALTER TABLE events ATTACH PARTITION events_26 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
-- run
INSERT INTO events VALUES (1, '2025-05-05', 'a'), (2, '2026-06-06', 'b'), (3, '2025-07-07', 'c');
UPDATE events SET v = 'd' WHERE id = 2;
UPDATE events SET at = '2026-08-08' WHERE id = 1;
DELETE FROM events WHERE id = 3;
TRUNCATE events;
