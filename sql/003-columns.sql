-- Adds to a table of koa-pg-session (id, expiry, session) what koa-pg-store keeps beside it.
--
--   psql -v schema=public -v table=session -f sql/003-columns.sql
--
-- Takes a moment whatever the table's size: no row is rewritten. koa-pg-session goes on working with it.
-- `version` has a default here, for rows that koa-pg-session inserts.

alter table :"schema".:"table"
  add column if not exists user_id     text,
  add column if not exists created_at  timestamptz not null default now(),
  add column if not exists last_access timestamptz not null default now(),
  add column if not exists version     bigint not null default 0,
  set (fillfactor = 70);
