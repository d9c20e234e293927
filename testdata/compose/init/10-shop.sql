-- A small shop, and a role for walferry with no more rights than it needs.
-- Run once by the postgres image, as superuser.
\getenv password WALFERRY_PASSWORD

CREATE SCHEMA shop;

CREATE TABLE shop.customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE shop.order_status AS ENUM ('new', 'paid', 'shipped', 'returned');

CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES shop.customers,
    status shop.order_status NOT NULL DEFAULT 'new',
    amount numeric(12, 2) NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    attributes jsonb,
    updated_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO shop.customers (name, email)
SELECT 'Customer ' || i, 'customer' || i || '@example.com' FROM generate_series(1, 1000) AS i;

CREATE ROLE walferry LOGIN REPLICATION PASSWORD :'password';
GRANT CONNECT ON DATABASE shop TO walferry;
GRANT USAGE ON SCHEMA shop TO walferry;
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO walferry;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO walferry;

CREATE PUBLICATION walferry_shop FOR TABLES IN SCHEMA shop WITH (publish_via_partition_root = true);
