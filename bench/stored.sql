-- The table that is copied: the rows of orders.sql as insert_order makes them, in one statement. beside gets changes only.
CREATE TABLE stored (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL,
    status text NOT NULL,
    amount numeric(12, 2) NOT NULL,
    note text,
    tags text[],
    attrs jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE beside (id bigint PRIMARY KEY);

CREATE PROCEDURE load_stored(rows bigint, seed bigint) LANGUAGE sql AS $$
    INSERT INTO stored
    SELECT n, r % 50000, 'new', (r % 1000000) / 100.0,
        substr('The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. '
            'How vexingly quick daft zebras jump! Sphinx of black quartz, judge my vow. The five boxing wizards jump quickly. '
            'Jackdaws love my big sphinx of quartz. Waltz, bad nymph, for quick jigs vex. Bright vixens jump; dozy fowl quack. ',
            1 + (r % 180)::int, 80 + (r % 41)::int),
        ('{new,gift,express,fragile,bulk,return,online,store}'::text[])[1 + r % 4:2 + r % 4 + r % 3],
        jsonb_build_object('channel', ('{online,store}'::text[])[1 + r % 2], 'weight', r % 5000, 'gift', r % 9 = 0),
        timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second', timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second'
    FROM (SELECT n, (((n + seed) * 1103515245 + 12345) % 2147483648) >> 4 AS r FROM generate_series(0, rows - 1) n) s
$$;
