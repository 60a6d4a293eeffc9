-- Creates the index that finds a user's sessions. Optional: without it, the whole table is read for that.
--
--   psql -v schema=public -v table=session -v index=session_user_id -f sql/007-users.sql
--
-- On a large table in use, run `create index concurrently` instead, which doesn't block writes.
-- Don't index `expiry` or `last_access`: every touch would then have to update all indexes of the table.

create index if not exists :"index" on :"schema".:"table" (user_id) where user_id is not null;
