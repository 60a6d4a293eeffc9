-- Distributes the table over the workers of a Citus cluster. To be run on the coordinator.
--
--   psql -v schema=public -v table=session -v function=koa_pg_store_session -f sql/009-distribute.sql
--
-- Drops the triggers of sql/006-notify.sql, as Citus allows none on such a table, and copies the sessions to the workers.
-- Requests for sessions wait meanwhile. The column `id` must hold digests, or stay as it is: ids can't be replaced later.

drop trigger if exists koa_pg_store_update on :"schema".:"table";
drop trigger if exists koa_pg_store_update_expiry on :"schema".:"table";
drop trigger if exists koa_pg_store_delete on :"schema".:"table";
drop trigger if exists koa_pg_store_truncate on :"schema".:"table";
drop function if exists :"schema".:"function"();

select create_distributed_table(format('%I.%I', :'schema', :'table')::regclass, 'id', colocate_with => 'none');
-- The sessions that the coordinator still has are copies now.
select truncate_local_data_after_distributing_table(format('%I.%I', :'schema', :'table')::regclass);
