// Makes a database look as if it had Citus, and its rules, so that what a store does there can be tested without a cluster.
import { sql } from './server.js'

/**
 * Creates the catalogs that the store reads, and the functions by which it distributes a table: here they only record it. The
 * rows stay in one table, so whatever Citus does with a statement isn't tested. Needs a superuser.
 */
export async function pretendCitus(url: string, { isWorker = false } = {}): Promise<void> {
  await sql(
    url,
    `set allow_system_table_mods = on;
    create table pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod "char");
    create table pg_catalog.pg_dist_shard (logicalrelid regclass, shardminvalue text);
    create table pg_catalog.pg_dist_local_group (groupid int);
    grant select on pg_catalog.pg_dist_partition, pg_catalog.pg_dist_shard, pg_catalog.pg_dist_local_group to public;
    insert into pg_catalog.pg_dist_local_group values (${isWorker ? 3 : 0});
    insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
      values (9999999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2-1');
    create function pg_catalog.create_distributed_table(relation regclass, distribution_column text, colocate_with text) returns void
    language plpgsql as $$ begin
      if exists (select from pg_trigger where tgrelid = relation and not tgisinternal) then
        raise 'cannot distribute relation because it has triggers';
      end if;
      insert into pg_dist_partition values (relation, 'h');
      insert into pg_dist_shard values (relation, '-2147483648'), (relation, '-1073741824'), (relation, '0'), (relation, '1073741824');
    end $$;
    create function pg_catalog.truncate_local_data_after_distributing_table(relation regclass) returns void language sql as ''`,
  )
}

/**
 * The names of functions of which PostgreSQL has a version that isn't immutable, without `to_timestamp`: that of a text isn't,
 * that of a number is.
 */
export async function mutableFunctions(url: string): Promise<ReadonlySet<string>> {
  const rows = await sql<{ name: string }>(
    url,
    `select distinct proname as name from pg_proc where pronamespace = 'pg_catalog'::regnamespace and provolatile <> 'i'
      and proname <> 'to_timestamp'`,
  )
  return new Set(rows.map(({ name }) => name))
}

/** A column of a table or of the values to be written. */
const column = /\b(?:t|s|u|excluded)\.\w+/

/** Both arguments have a version that is immutable: that for intervals. */
const intervalParts =
  /date_part\('epoch', \w+\.\w+ - \w+\.\w+\)|extract\(epoch from \(\w+\.\w+ - timestamptz 'epoch'\)\)/g

/** Returns which rules of Citus a statement that changes rows breaks. */
export function brokenRules(statement: string, mutable: ReadonlySet<string>): string[] {
  // As it was before it was sent; Citus knows both.
  const text = statement.replaceAll(/operator\(pg_catalog\.([^)]+)\)/g, '$1').replaceAll('pg_catalog.', '')
  const broken: string[] = []
  if (!/^(insert into|update|delete from) /.test(text)) broken.push('a part of the statement changes rows')
  if (/^insert into/.test(text) && !/\) values \(/.test(text)) broken.push('inserts what isn’t values')
  if (!/\bid = (\$1|any\()|^insert/.test(text)) broken.push('concerns every shard')
  if (/\b(?:t|s|excluded)\.\w+::timestamptz/.test(text)) broken.push('casts a column to timestamptz')
  if (/\b(?:t|s|u|excluded)\.\w+[^(),]*\)*[^(),]*\binterval '/.test(text))
    broken.push('adds an interval to a column')
  const rest = text.replaceAll(intervalParts, '0')
  const immutableOnly = [
    ...rest.matchAll(/\bcase\b.*?\bend\b/g),
    ...callsOf('coalesce', rest).map((call) => [call] as const),
    ...rest.matchAll(/\bdo update\b.*/g),
    ...rest.matchAll(/\breturning\b.*/g),
  ].map(([part]) => part)
  for (const name of new Set([...rest.matchAll(/\b(\w+)\(/g)].map(([, name]) => name as string))) {
    if (!mutable.has(name)) continue
    for (const call of callsOf(name, rest)) {
      if (column.test(call)) broken.push(`${name}() of a column`)
      if (immutableOnly.some((part) => part.includes(call)))
        broken.push(`${name}() where only immutable functions are allowed`)
    }
  }
  return [...new Set(broken)]
}

/** The calls of a function in a text, with their arguments. */
function callsOf(name: string, text: string): string[] {
  return [...text.matchAll(new RegExp(`\\b${name}\\(`, 'g'))].map(({ index, 0: start }) => {
    let end = index + start.length
    for (let depth = 1; depth > 0 && end < text.length; end++)
      depth += text[end] === '(' ? 1 : text[end] === ')' ? -1 : 0
    return text.slice(index, end)
  })
}
