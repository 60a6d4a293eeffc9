-- Finds a user's sessions. Optional: without it that takes a look at the whole table.
--
--   psql -v schema=public -v table=session -v index=session_user_id -f sql/007-users.sql
--
-- On a big table in use, say `create index concurrently` instead: that lets others write meanwhile.
-- No other index: one on a time that moves with every access makes each of these write to every index of the table.

create index if not exists :"index" on :"schema".:"table" (user_id) where user_id is not null;
