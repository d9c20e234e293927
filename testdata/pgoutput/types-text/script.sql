-- The script of types-binary in text.
-- options: binary=false
-- setup
CREATE TABLE scalars (
    id bigint PRIMARY KEY, b boolean, c "char", i2 smallint, i4 integer, f4 real, f8 double precision,
    n numeric(12,2), n_free numeric, t text, v varchar(20), bp char(5), by bytea, d date, ti time, tz timetz,
    ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb, inet inet, cidr cidr, mac macaddr,
    bits bit(5), vb bit varying(9), m money, p point, o oid, x xml, ia integer[], ta text[], r int4range, tv tsvector
);
-- run
INSERT INTO scalars VALUES (
    1, true, 'x', -2, 4, 1.5, -2.25, 12345.67, 3.14159265358979323846, 'text é', 'varchar', 'ab', '\x00ff', '2026-11-21',
    '01:02:03.000004', '01:02:03+05:30', '2026-11-21 14:30:00.123456', '2026-11-21 14:30:00.123456+00', '1 year 2 mons 3 days 04:05:06',
    '6b1ef5ae-3c2c-4c0a-9f57-0d4b1c2d3e4f', '{"a": 1}', '{"b": [1, null]}', '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03',
    B'10101', B'1100', 12.34, '(1,2)', 42, '<a/>', '{1,NULL,3}', '{"a b",NULL,""}', '[1,10)', 'a fat cat'
);
INSERT INTO scalars (id) VALUES (2);
INSERT INTO scalars (id, n_free, f8, d, ts, t, ia) VALUES (3, 'NaN', 'NaN', 'infinity', '-infinity', '', '{}');
UPDATE scalars SET t = NULL WHERE id = 1;
DELETE FROM scalars WHERE id = 2;
