-- Quoted and Unicode names, and types that are not built in: the Type message of a domain carries its base's name.
-- options: binary=true
-- setup
CREATE SCHEMA "My Schema";
CREATE TYPE "My Schema".mood AS ENUM ('sad', 'so lala', 'glücklich');
CREATE DOMAIN "My Schema".positive AS numeric(6,1) CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "My Schema"."Bücher ""neu""" (
    "Größe.cm" int PRIMARY KEY, "select" text, "日本" "My Schema".mood, d "My Schema".positive, c pair, "a,b" "My Schema".mood[]
);
-- run
INSERT INTO "My Schema"."Bücher ""neu""" VALUES (1, 'é', 'glücklich', 1.5, (1, 'x'), '{sad,NULL}');
UPDATE "My Schema"."Bücher ""neu""" SET "日本" = 'so lala';
