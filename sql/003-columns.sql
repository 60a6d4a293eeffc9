-- Adds the columns of koa-pg-store to a table of koa-pg-session (id, expiry, session).
--
--   psql -v schema=public -v table=session -f sql/003-columns.sql
--
-- Takes a moment whatever the table's size, as no row is rewritten. koa-pg-session keeps working with the table: `version`
-- has a default for the rows that it inserts.

alter table :"schema".:"table"
  add column if not exists user_id     text,
  add column if not exists created_at  timestamptz not null default now(),
  add column if not exists last_access timestamptz not null default now(),
  add column if not exists version     bigint not null default 0;
