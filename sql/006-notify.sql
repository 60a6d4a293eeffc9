-- Notifies the stores' caches of changes made outside the store: an update, delete or truncate in psql, or by other
-- software. The store's own changes raise `version`, which these triggers ignore, and the store sends their notifications.
--
--   psql -v schema=public -v table=session -v function=koa_pg_store_session -f sql/006-notify.sql
--
-- `function` is the name of the trigger function; each table has its own.
--
-- Optional: without it, a cache returns the old session until the cache's `ttl` has passed.
-- Needs the columns of sql/003-columns.sql. A payload is the SHA-256 of the session id, followed by the row's new version.

-- The fixed search path keeps the function, which runs as the role that changes a session, from calling functions that
-- another role has created.
create or replace function :"schema".:"function"() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $function$
declare
  -- A partition's trigger notifies the channel of the whole table.
  whole regclass := coalesce(pg_partition_root(tg_relid), tg_relid);
  channel text := (
    select 'koa_pg_store_' || left(encode(sha256(convert_to(n.nspname || '.' || c.relname, 'UTF8'::name)), 'hex'), 16)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = whole);
  changes int := coalesce(nullif(current_setting('koa_pg_store.changes', true), ''), '0')::int + 1;
begin
  if tg_op = 'TRUNCATE' then
    perform pg_notify(channel, 'clear');
    return null;
  end if;
  if tg_op = 'UPDATE' then
    new.version := old.version + 1;
  end if;
  perform set_config('koa_pg_store.changes', changes::text, true);
  -- After many changes in one transaction, clearing the caches once costs less than a notification for each.
  if changes > 1000 then
    perform pg_notify(channel, 'clear');
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

-- Ignores what leaves the session the same: a raw id that is replaced by its digest and, with koa_pg_store.reencrypt, a session
-- that `koa-pg-store migrate --reencrypt` encrypts with another key, or whose user the store has found.
create trigger koa_pg_store_update before update of id, session, user_id, created_at on :"schema".:"table"
  for each row when (new.version = old.version
    and current_setting('koa_pg_store.reencrypt', true) is distinct from 'on' and (
    new.session::text is distinct from old.session::text
    or new.user_id is distinct from old.user_id
    or new.created_at <> old.created_at
    or new.id <> old.id and not (new.id like 'sha256:%' and old.id not like 'sha256:%')))
  execute function :"schema".:"function"();

-- Only an earlier expiry: moving it later is a touch, which caches need not know of.
create trigger koa_pg_store_update_expiry before update of expiry on :"schema".:"table"
  for each row when (new.version = old.version and new.expiry < old.expiry)
  execute function :"schema".:"function"();

-- Ignores a sweep, which sets koa_pg_store.sweep: caches don't return the expired sessions that it deletes.
create trigger koa_pg_store_delete after delete on :"schema".:"table"
  for each row when (old.session is not null and old.expiry > now()
    and current_setting('koa_pg_store.sweep', true) is distinct from 'on')
  execute function :"schema".:"function"();

create trigger koa_pg_store_truncate after truncate on :"schema".:"table"
  for each statement execute function :"schema".:"function"();
