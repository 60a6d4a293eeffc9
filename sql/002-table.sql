-- The session table, for a database that has none.
--
--   psql -v schema=public -v table=session -v ids='SHA-256 of the session id' -f sql/002-table.sql
--
-- `ids` says what the column `id` holds. A store with `hashIds: false` wants -v ids='session id'.
-- The store's role then needs: grant select, insert, update, delete on public.session to …;

create table :"schema".:"table" (
  id          text primary key,
  expiry      timestamptz not null,
  session     json,                     -- null: destroyed; kept for a while so that a late save can't undo it
  user_id     text,
  created_at  timestamptz not null default now(),
  last_access timestamptz not null default now(),
  version     bigint not null
) with (fillfactor = 70);  -- room in each page for the next version of its rows: no index is touched

comment on column :"schema".:"table".id is :'ids';
