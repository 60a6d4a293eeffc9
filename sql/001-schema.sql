-- The schema that holds the session table. Not needed where it exists already (`public` does).
--
--   psql -v schema=public -f sql/001-schema.sql

create schema :"schema";
