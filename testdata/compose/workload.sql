-- One transaction of pgbench: an order, a payment, now and then a deletion or a change of heart.
\set customer random(1, 1000)
\set amount random(100, 100000)
\set dice random(1, 10)
BEGIN;
INSERT INTO shop.orders (customer_id, amount, tags, attributes)
VALUES (:customer, :amount / 100.0, ARRAY['web', 'no ' || :dice], jsonb_build_object('source', 'pgbench', 'dice', :dice));
UPDATE shop.orders SET status = 'paid', updated_at = now()
WHERE id = (SELECT id FROM shop.orders WHERE status = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED);
\if :dice = 1
DELETE FROM shop.orders
WHERE id = (SELECT id FROM shop.orders WHERE status = 'paid' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED);
\endif
\if :dice = 2
UPDATE shop.customers SET email = 'customer' || :amount || '@example.com' WHERE id = :customer;
ROLLBACK;
\else
COMMIT;
\endif
