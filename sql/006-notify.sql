-- Tells the stores' caches of changes that are made past the store: an update, delete or truncate in psql, or by other
-- software. What the store itself changes it tells itself, and raises `version`: these triggers pass it over.
--
--   psql -v schema=public -v table=session -v function=koa_pg_store_session -f sql/006-notify.sql
--
-- `function` is the name of the trigger function; each table has one of its own.
--
-- Optional: without it such a change is seen when a cached session is read anew, after the cache's `ttl`.
-- Needs the columns of sql/003-columns.sql. A payload names a session by SHA-256 of its id and the version that it now has.

-- The search path is fixed: the function runs as whoever changes a session, and must call nothing that somebody else made.
create or replace function :"schema".:"function"() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $function$
declare
  -- A partition's trigger speaks for the whole table.
  whole regclass := coalesce(pg_partition_root(tg_relid), tg_relid);
  channel text := (
    select 'koa_pg_store_' || left(encode(sha256(convert_to(n.nspname || '.' || c.relname, 'UTF8'::name)), 'hex'), 16)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = whole);
  changes int := coalesce(nullif(current_setting('koa_pg_store.changes', true), ''), '0')::int + 1;
begin
  if tg_op = 'TRUNCATE' then
    perform pg_notify(channel, 'flush');
    return null;
  end if;
  if tg_op = 'UPDATE' then
    new.version := old.version + 1;
  end if;
  perform set_config('koa_pg_store.changes', changes::text, true);
  -- Of many changes in one transaction each instance would rather forget everything once than be told of every one.
  if changes > 1000 then
    perform pg_notify(channel, 'flush');
  else
    perform pg_notify(channel, case
      when old.id like 'sha256:%' and length(old.id) = 50 then substr(old.id, 8)
      else rtrim(translate(encode(sha256(convert_to(old.id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=')
    end || to_hex(old.version + 1));
  end if;
  return case when tg_op = 'UPDATE' then new end;
end
$function$;

drop trigger if exists koa_pg_store_update on :"schema".:"table";
drop trigger if exists koa_pg_store_update_expiry on :"schema".:"table";
drop trigger if exists koa_pg_store_delete on :"schema".:"table";
drop trigger if exists koa_pg_store_truncate on :"schema".:"table";

-- A row whose raw id is turned into its digest is the same session. So is one that is encrypted with another key by
-- `koa-pg-store migrate --reencrypt`, which says so by a setting.
create trigger koa_pg_store_update before update of id, session, user_id, created_at on :"schema".:"table"
  for each row when (new.version = old.version
    and current_setting('koa_pg_store.reencrypt', true) is distinct from 'on' and (
    new.session::text is distinct from old.session::text
    or new.user_id is distinct from old.user_id
    or new.created_at <> old.created_at
    or new.id <> old.id and not (new.id like 'sha256:%' and old.id not like 'sha256:%')))
  execute function :"schema".:"function"();

-- Later is a touch, and tells nobody anything that a cache must know.
create trigger koa_pg_store_update_expiry before update of expiry on :"schema".:"table"
  for each row when (new.version = old.version and new.expiry < old.expiry)
  execute function :"schema".:"function"();

-- A sweep deletes what no cache answers any more, and says so by a setting.
create trigger koa_pg_store_delete after delete on :"schema".:"table"
  for each row when (old.session is not null and old.expiry > now()
    and current_setting('koa_pg_store.sweep', true) is distinct from 'on')
  execute function :"schema".:"function"();

create trigger koa_pg_store_truncate after truncate on :"schema".:"table"
  for each statement execute function :"schema".:"function"();
