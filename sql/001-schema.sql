-- Creates the schema for the session table. Not needed if the schema exists, as `public` does.
--
--   psql -v schema=public -f sql/001-schema.sql

create schema :"schema";
