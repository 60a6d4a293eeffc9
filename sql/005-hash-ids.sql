-- Replaces raw session ids, as koa-pg-session stores them, by digests: `sha256:` and the SHA-256 in base64url.
-- Works on a range of places in the table, so that a large one can be done in batches. Returns the number of raw ids.
--
--   psql -v schema=public -v table=session -v first='(0,0)' -v after='(4294967295,0)' -f sql/005-hash-ids.sql
--
-- Only when neither koa-pg-session nor a store with `hashIds: false` uses the table any more: they could not find the
-- sessions. If a row with the digest already exists, the raw row is older and is deleted.

with raw as (
  select ctid, id,
    'sha256:' || rtrim(translate(encode(sha256(pg_catalog.convert_to(id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') as digest
  from :"schema".:"table"
  where ctid >= :'first'::tid and ctid < :'after'::tid and not (id like 'sha256:%' and length(id) = 50)
  for update
), gone as (
  delete from :"schema".:"table" t using raw
  where t.ctid = raw.ctid and exists (select from :"schema".:"table" d where d.id = raw.digest)
  returning 1
), turned as (
  update :"schema".:"table" t set id = raw.digest from raw
  where t.ctid = raw.ctid and not exists (select from :"schema".:"table" d where d.id = raw.digest)
  returning 1
)
select ((select count(*) from gone) + (select count(*) from turned))::float8 as turned;
