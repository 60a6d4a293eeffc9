-- Makes `expiry` of a koa-pg-session table a timestamptz, so that no TimeZone setting moves it.
--
--   psql -v schema=public -v table=session -f sql/004-expiry.sql
--
-- The times are read in the TimeZone of the session that runs this, which has to be the one that koa-pg-session's
-- connections have (as a rule the server's own). Where that is UTC it takes a moment; elsewhere the table is
-- rewritten, about a second for a million sessions, and nobody reads or writes it meanwhile.
-- The triggers that look at the column stand in the way; sql/006-notify.sql, or the store's next start, makes them again.

drop trigger if exists koa_pg_store_update_expiry on :"schema".:"table";
drop trigger if exists koa_pg_store_delete on :"schema".:"table";
alter table :"schema".:"table" alter column expiry type timestamptz;
