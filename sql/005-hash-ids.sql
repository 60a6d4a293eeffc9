-- Replaces raw session ids, as koa-pg-session stores them, by digests: `sha256:` and the SHA-256 in base64url.
-- Works on a range of places in the table, so that a large one can be done in batches. Returns the number of raw ids found.
--
--   psql -v schema=public -v table=session -v part_schema=public -v part=session -v first='(0,0)' -v after='(4294967295,0)' -f sql/005-hash-ids.sql
--
-- `part` is the table itself or, if it is partitioned, one of its partitions; run it for each.
-- Only when koa-pg-session doesn't use the table any more: it could not find the sessions. Stores of koa-pg-store find them,
-- also those with `hashIds: false`. Run it again until it returns 0: it skips rows that are locked. If a row with the digest
-- already exists, the raw row is older and is deleted.

with whole as (
  -- Locks the table before its partition, as every other statement does.
  select from :"schema".:"table" limit 0
), places as materialized (
  select id from only :"part_schema".:"part"
  where ctid >= :'first'::tid and ctid < :'after'::tid and not (id like 'sha256:%' and length(id) = 50)
), raw as materialized (
  select id,
    'sha256:' || rtrim(translate(encode(sha256(pg_catalog.convert_to(id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') as digest
  from only :"part_schema".:"part"
  where ctid >= :'first'::tid and ctid < :'after'::tid and not (id like 'sha256:%' and length(id) = 50)
    -- A row that moves to another partition is deleted and inserted again, which is no change of the session.
    and (select set_config('koa_pg_store.sweep', 'on', true)) is not null
  for update skip locked
), gone as (
  delete from :"schema".:"table" t using raw
  where t.id = raw.id and exists (select from :"schema".:"table" d where d.id = raw.digest)
), turned as (
  update :"schema".:"table" t set id = raw.digest from raw
  where t.id = raw.id and not exists (select from :"schema".:"table" d where d.id = raw.digest)
)
select count(*)::float8 as found from places;
