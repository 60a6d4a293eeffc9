-- Changes `expiry` of a koa-pg-session table to timestamptz, so that it no longer depends on the TimeZone setting.
--
--   psql -v schema=public -v table=session -f sql/004-expiry.sql
--
-- Existing times are read in the TimeZone of the connection that runs this. It must be the TimeZone of koa-pg-session's
-- connections, which is usually the server's. With UTC this takes a moment. With any other, the table is rewritten and
-- locked, for about a second for each million sessions.
-- The triggers on the column must be dropped first; sql/006-notify.sql, or the store's next start, creates them again.

drop trigger if exists koa_pg_store_update_expiry on :"schema".:"table";
drop trigger if exists koa_pg_store_delete on :"schema".:"table";
alter table :"schema".:"table" alter column expiry type timestamptz;
