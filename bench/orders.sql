-- The workload "orders": a table as shops have it, and transactions of 5 inserts, 4 updates and 1 delete. Values come from a
-- generator of its own, so that a seed makes the same rows on every server version.
CREATE TABLE orders (
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

CREATE PROCEDURE insert_order(n bigint, r bigint) LANGUAGE plpgsql AS $$
DECLARE
    pangrams CONSTANT text := 'The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. '
        'How vexingly quick daft zebras jump! Sphinx of black quartz, judge my vow. The five boxing wizards jump quickly. '
        'Jackdaws love my big sphinx of quartz. Waltz, bad nymph, for quick jigs vex. Bright vixens jump; dozy fowl quack. ';
    tags CONSTANT text[] := '{new,gift,express,fragile,bulk,return,online,store}';
BEGIN
    INSERT INTO orders VALUES (
        n, r % 50000, 'new', (r % 1000000) / 100.0,
        substr(pangrams, 1 + (r % 180)::int, 80 + (r % 41)::int),
        tags[1 + r % 4:2 + r % 4 + r % 3],
        jsonb_build_object('channel', tags[7 + r % 2], 'weight', r % 5000, 'gift', r % 9 = 0),
        timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second', timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second');
END $$;

-- Transaction i inserts the orders 5i to 5i+4, updates four of the newest 250 and deletes the last one of transaction i-50.
-- The first 50 find what load_orders(-50, 0, seed) has left, which only inserts.
CREATE PROCEDURE load_orders(first bigint, behind bigint, seed bigint) LANGUAGE plpgsql AS $$
DECLARE
    r bigint := seed;
BEGIN
    FOR i IN first..behind - 1 LOOP
        FOR k IN 0..4 LOOP
            r := (r * 1103515245 + 12345) % 2147483648;
            CALL insert_order(i * 5 + k, r >> 4);
        END LOOP;
        IF i >= 0 THEN
            FOR k IN 0..3 LOOP
                r := (r * 1103515245 + 12345) % 2147483648;
                UPDATE orders SET status = CASE (r >> 8) % 3 WHEN 0 THEN 'paid' WHEN 1 THEN 'packed' ELSE 'shipped' END,
                    amount = amount + 1, updated_at = updated_at + interval '1 minute'
                WHERE id = (i - (r >> 10) % 50) * 5 + k;
            END LOOP;
            DELETE FROM orders WHERE id = (i - 50) * 5 + 4;
        END IF;
        COMMIT;
    END LOOP;
END $$;
