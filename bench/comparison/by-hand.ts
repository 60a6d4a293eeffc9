// The least that has to be done: pg, one statement for all calls of a tick, and nothing else. What the store costs beyond it
// is its own: merges, the cache, expiry by the options, errors and limits for each call.
import { hash } from 'node:crypto'
import pg from 'pg'
import { newId, ttl } from '../support/sessions.js'
import type { Adapter } from './adapter.js'

/** As many as the store's, which measures how many are worth it. */
const connectionCount = 2
const maxBatch = 128

/** Control characters in JSON and digests are escaped or absent: this one separates the values of a batch. */
const separator = '\x1e'

const createTable = `create table by_hand
  (id text primary key, session json not null, expiry timestamptz not null, version bigint not null) with (fillfactor = 70)`

const readSql = `select string_agg(u.n || ',' || t.version, ';') heads, string_agg(t.session::text, chr(30)) sessions
  from unnest(string_to_array($1, chr(30))) with ordinality u(id, n) join by_hand t on t.id = u.id where t.expiry > now()`

const writeSql = `with changed as (
    insert into by_hand as t (id, session, expiry, version)
    select u.id, u.session::json, now() + $3::float8 * interval '1 millisecond', (extract(epoch from now()) * 1000000)::bigint
      from unnest(string_to_array($1, chr(30)), string_to_array($2, chr(30))) u(id, session) order by u.id
    on conflict (id) do update set session = excluded.session, expiry = excluded.expiry,
      version = greatest(excluded.version, t.version + 1)
    returning t.id, t.version
  ), notified as (
    select pg_notify('by_hand', string_agg(substr(id, 8) || to_hex(version), ',')) from changed having count(*) > 0
  ) select string_agg(id || ' ' || version, ';'), (select count(*) from notified) from changed`

interface Call {
  readonly id: string
  readonly text: string
  readonly resolve: (session?: unknown) => void
  readonly reject: (error: unknown) => void
}

export async function byHand(connectionString: string): Promise<Adapter> {
  const clients = Array.from({ length: connectionCount }, () => new pg.Client({ connectionString }))
  for (const client of clients) await client.on('error', () => {}).connect()
  await clients[0]?.query(createTable)
  let turn = 0
  const query = (name: string, text: string, values: unknown[]) =>
    (clients[turn++ % connectionCount] as pg.Client).query<string[]>({ name, text, values, rowMode: 'array' })

  const read = batched(async (batch) => {
    const { rows } = await query('read', readSql, [batch.map(({ id }) => id).join(separator)])
    const [heads, sessions] = rows[0] ?? []
    const texts = (sessions ?? '').split(separator)
    const found: unknown[] = []
    for (const [n, head] of (heads || '').split(';').entries())
      found[Number.parseInt(head, 10)] = JSON.parse(texts[n] ?? 'null')
    for (const [n, call] of batch.entries()) call.resolve(found[n + 1])
  })
  const write = batched(async (batch) => {
    const texts = new Map(batch.map(({ id, text }) => [id, text]))
    await query('write', writeSql, [
      [...texts.keys()].join(separator),
      [...texts.values()].join(separator),
      ttl,
    ])
    for (const { resolve } of batch) resolve()
  })
  const set = (sid: string, session: object) => write(digest(sid), JSON.stringify(session))
  return {
    get: (sid) => read(digest(sid), ''),
    set,
    create: (session) => set(newId(), session),
    close: () => Promise.all(clients.map((client) => client.end())),
  }
}

function digest(sid: string): string {
  return `sha256:${hash('sha256', sid, 'base64url')}`
}

/** Runs the calls of a tick, and those that come while all connections are busy, in one statement. */
function batched(run: (batch: Call[]) => Promise<void>): (id: string, text: string) => Promise<unknown> {
  const waiting: Call[] = []
  let running = 0
  const start = (): void => {
    while (waiting.length > 0 && running < connectionCount) {
      const batch = waiting.splice(0, maxBatch)
      running++
      run(batch)
        .catch((error) => {
          for (const { reject } of batch) reject(error)
        })
        .finally(() => {
          running--
          start()
        })
    }
  }
  return (id, text) =>
    new Promise((resolve, reject) => {
      if (waiting.push({ id, text, resolve, reject }) === 1) queueMicrotask(start)
    })
}
