-- Creates the session table.
--
--   psql -v schema=public -v table=session -v ids='SHA-256 of the session id' -f sql/002-table.sql
--
-- `ids` describes what the column `id` holds. For a store with `hashIds: false`, use -v ids='session id'.
-- Afterwards the store's role needs: grant select, insert, update, delete on public.session to …;

create table :"schema".:"table" (
  id          text primary key,
  expiry      timestamptz not null,
  session     json,                     -- null: destroyed; kept for an hour so that a late save can't undo it
  user_id     text,
  created_at  timestamptz not null default now(),
  last_access timestamptz not null default now(),
  version     bigint not null
) with (fillfactor = 70);  -- leaves room for updated rows in their page, so that a touch updates no index

comment on column :"schema".:"table".id is :'ids';
