// Statements as they are sent: with the schema of everything in them.
import { expect } from 'chai'
import fc from 'fast-check'
import { PgStore } from '../../lib/index.js'
import { qualify } from '../../lib/postgres/qualify.js'
import { CitusStatements } from '../../lib/repository/citus-statements.js'
import { SessionStatements } from '../../lib/repository/session-statements.js'
import type { Table } from '../../lib/schema/table.js'
import { SweepStatements } from '../../lib/sweeper/sweep-statements.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** Writes operators as before. */
const short = (text: string): string => text.replaceAll(/operator\(pg_catalog\.([^)]+)\)/g, '‹$1›')

describe('a statement that is sent', () => {
  const examples: [statement: string, qualified: string][] = [
    ['select now()', 'select pg_catalog.now()'],
    ['select pg_catalog.now()', 'select pg_catalog.now()'],
    ['select count(*), t.* from t', 'select pg_catalog.count(*), t.* from t'],
    ['select a = b and c <> $1', 'select a ‹=› b and c ‹<>› $1'],
    ['select a > b + c * 2', 'select a ‹>› (b ‹+› (c ‹*› 2))'],
    ['select a + b > c', 'select a ‹+› b ‹>› c'],
    ["select a || 'x' = b || 'y'", "select a ‹||› 'x' ‹=› (b ‹||› 'y')"],
    ['select a - b - c', 'select a ‹-› b ‹-› c'],
    ['select -1, -(a + 1), - t.a * 2', 'select -1, (‹-› (a ‹+› 1)), (‹-› t.a) ‹*› 2'],
    ['select (a + b) * c::int8', 'select (a ‹+› b) ‹*› c::pg_catalog.int8'],
    [
      "select id in ('a', 'b') or id not in (select id from u)",
      "select id ‹=› any (array['a', 'b']) or id ‹<>› all (select id from u)",
    ],
    ["select not (id like 'a%' and id not like 'b')", "select not (id ‹~~› 'a%' and id ‹!~~› 'b')"],
    ['select id = any($1::text[])', 'select id ‹=› any($1::pg_catalog.text[])'],
    ['select a[b + 1], array[1 - a]', 'select a[b ‹+› 1], array[1 ‹-› a]'],
    [
      "select timestamptz 'epoch', interval '1 hour', text",
      "select pg_catalog.timestamptz 'epoch', interval '1 hour', text",
    ],
    ['select x::int, y::text::pg_catalog.json', 'select x::int, y::pg_catalog.text::pg_catalog.json'],
    ['select extract(epoch from a - b) * 1000', 'select extract(epoch from a ‹-› b) ‹*› 1000'],
    [
      'select case when a = b then c + 1 else d end * 2',
      'select case when a ‹=› b then c ‹+› 1 else d end ‹*› 2',
    ],
    [
      "select $$a = b$$, 'a = ''b', e'a\\' = b', \"a = b\"",
      "select $$a = b$$, 'a = ''b', e'a\\' = b', \"a = b\"",
    ],
    ['select a -- = b\n = c /* = d */ + e', 'select a ‹=› (c ‹+› e)'],
    [
      'update t set a = b = c, d = now() where e = f',
      'update t set a = b ‹=› c, d = pg_catalog.now() where e ‹=› f',
    ],
    [
      'insert into t as u (a) values (1) on conflict (a) do update set a = u.a + 1 where u.a = 2 returning u.a = 3',
      'insert into t as u (a) values (1) on conflict (a) do update set a = u.a ‹+› 1 where u.a ‹=› 2 returning u.a ‹=› 3',
    ],
    [
      'with x (a) as materialized (select 1) select from x as y (b) where exists (select)',
      'with x (a) as materialized (select 1) select from x as y (b) where exists (select)',
    ],
    [
      'select from pg_class c where pg_class.oid = left(a, 1)',
      'select from pg_catalog.pg_class c where pg_class.oid ‹=› pg_catalog.left(a, 1)',
    ],
    [
      'select count(*) filter (where a = b)::int, row_number() over (order by a - b desc) - 1 as n',
      'select pg_catalog.count(*) filter (where a ‹=› b)::int, pg_catalog.row_number() over (order by a ‹-› b desc) ‹-› 1 as n',
    ],
    [
      'select from unnest($1), unnest($1, array[2, 3])',
      'select from pg_catalog.unnest($1), unnest($1, array[2, 3])',
    ],
    [
      'select from unnest(f($1, 2)) as u (a, b)',
      'select from pg_catalog.unnest(pg_catalog.f($1, 2)) as u (a, b)',
    ],
    ['select from pg_catalog.unnest(a)', 'select from pg_catalog.unnest(a)'],
    ['select ä = \\', 'select ä ‹=› \\'],
    ['listen a', 'listen a'],
    ['do $$ select now() $$', 'do $$ select now() $$'],
  ]
  for (const [statement, qualified] of examples)
    it(`is, of ${statement.replaceAll('\n', '\\n')}`, () => {
      expect(short(qualify(statement))).to.equal(qualified)
    })

  it('is whatever was written: what is wrong with a statement is for PostgreSQL to say', () => {
    const parts = fc.constantFrom(
      'select ',
      'case',
      ' end',
      '(',
      ')',
      '[',
      ']',
      '::',
      '-',
      ' in ',
      ' not ',
      'unnest(',
      "'",
      '"',
      '$',
      ',',
      '.',
      'a',
      ' ',
      '=',
    )
    fc.assert(
      fc.property(
        fc.array(fc.oneof(parts, fc.string({ unit: 'binary', maxLength: 3 })), { maxLength: 12 }),
        (list) => {
          expect(qualify(`select ${list.join('')}`)).to.be.a('string')
        },
      ),
      { numRuns: 2_000 },
    )
  })

  it('means what was written: PostgreSQL has the same plan for both', async function () {
    const url = await freshDatabase()
    const [server] = await sql(url, `select current_setting('server_version_num')::int as version`)
    // Earlier versions can't explain a statement without values for its parameters.
    if (server?.version < 160_000) this.skip()
    const store = new PgStore(url)
    await store.setup()
    await store.close()
    const columns = ['id', 'expiry', 'session', 'user_id', 'created_at', 'last_access', 'version']
    const table = {
      name: '"public"."session"',
      columns: new Set(columns),
      canFlush: true,
      hasPages: true,
    } as unknown as Table
    const limits = { maxLifetime: 7_200_000, idleTimeout: 3_600_000, grace: 1_000 }
    const texts: string[] = []
    for (const options of [limits, { maxLifetime: undefined, idleTimeout: undefined, grace: 0 }])
      for (const hasRawIds of [false, true]) {
        const statements = [
          new SessionStatements({ ...table, hasRawIds }, options, 'channel'),
          new SessionStatements({ ...table, hasRawIds }, options, 'channel', false),
          new CitusStatements(table, options),
          new SweepStatements({ ...table, hasRawIds }, options),
        ]
        for (const one of statements)
          for (const source of [one, Object.getPrototypeOf(one)])
            for (const name of Object.getOwnPropertyNames(source)) {
              const text: unknown = Reflect.get(one, name)
              if (typeof text === 'string' && /^(select|with|insert|update|delete)/.test(text))
                texts.push(text)
            }
      }
    expect(texts.length).to.be.above(100)
    const explain = async (text: string): Promise<string> => {
      const rows = await sql(url, `explain (verbose, costs off, generic_plan) ${text}`)
      return rows.map((row) => row['QUERY PLAN']).join('\n')
    }
    for (const text of new Set(texts)) {
      // A list with columns or parameters in it is planned as alternatives or as an array, which mean the same.
      if (/ in \((?!')/.test(text)) continue
      expect(await explain(qualify(text)), text).to.equal(await explain(text))
    }
  })
})
