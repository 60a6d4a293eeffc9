// A log that a trigger keeps in PostgreSQL of every change of a session, and a check of the history against it.
import { PgStore } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { sql } from '../helpers/server.js'
import { type Fault, group } from './check.js'
import type { Event } from './event.js'

/** A session was written, or destroyed (`null`). */
export interface LogEntry {
  id: string
  n: number | null
}

/** `holdLocksSeconds`: how long each row stays locked before its change is logged. */
export async function keepLog(url: string, holdLocksSeconds: number): Promise<void> {
  const store = new PgStore(url, { cache: false })
  await store.setup()
  await store.close()
  // The row is locked, so a session's changes are logged in commit order. A touch doesn't change `session`.
  await sql(
    url,
    `create table log (place bigserial primary key, id text not null, n bigint);
    create function log() returns trigger language plpgsql as $$ begin
      ${holdLocksSeconds > 0 ? `perform pg_sleep(${holdLocksSeconds});` : ''}
      insert into log (id, n) values (new.id, (new.session->>'n')::bigint);
      return null;
    end $$;
    create trigger log after insert or update of session on session for each row execute function log()`,
  )
}

export async function readLog(url: string): Promise<LogEntry[]> {
  return sql<LogEntry & Record<string, unknown>>(url, 'select id, n::float8 from log order by place')
}

/** Returns the ids of sessions whose row differs from the last log entry. */
export async function lostRows(url: string): Promise<string[]> {
  const rows = await sql<{ id: string }>(
    url,
    `select last.id from (select distinct on (id) id, n from log order by id, place desc) as last
     left join session as s using (id) where s.id is null or (s.session->>'n')::bigint is distinct from last.n`,
  )
  return rows.map(({ id }) => id)
}

/**
 * Finds acknowledged writes that are not in the log though their session was not destroyed, writes in another order than that
 * of the calls, and writes to destroyed sessions.
 */
export function checkLog(events: Event[], log: LogEntry[]): Fault[] {
  const logs = group(log, ({ id }) => id)
  const histories = group(events, ({ key }) => `sha256:${digestOf(key)}`)
  return [...histories].flatMap(([id, history]) =>
    checkOne(
      history,
      (logs.get(id) ?? []).map(({ n }) => n),
    ),
  )
}

function checkOne(history: Event[], log: LogEntry['n'][]): Fault[] {
  const faults: Fault[] = []
  const writes = new Map(history.filter(({ kind }) => kind === 'write').map((event) => [event.value, event]))
  const destroys = history.filter(({ kind }) => kind === 'destroy')
  const logged = new Set<Event>()
  /** The logged write that started last. */
  let latest: Event | undefined
  for (const [index, n] of log.entries()) {
    const write = writes.get(n)
    if (n === null) {
      if (index < log.length - 1) faults.push({ what: 'resurrected', events: destroys })
    } else if (write === undefined || logged.has(write))
      faults.push({ what: 'unknown value', events: destroys })
    else {
      if (latest && write.end < latest.start) faults.push({ what: 'out of order', events: [latest, write] })
      if (latest === undefined || write.start > latest.start) latest = write
      logged.add(write)
    }
  }
  const isDestroyed = log.includes(null)
  const lastStart = latest?.start ?? 0
  if (isDestroyed && !destroys.some(({ end }) => end > lastStart))
    faults.push({ what: 'unknown value', events: destroys })
  // An acknowledged write may be missing only if it came after the destroy, which came after every logged write.
  const earliestDestroy = Math.max(lastStart, Math.min(...destroys.map(({ start }) => start)))
  for (const write of writes.values())
    if (write.end < Infinity && !logged.has(write) && !(isDestroyed && write.end > earliestDestroy))
      faults.push({ what: 'lost write', events: [write] })
  const firstWritten = Math.min(...[...logged].map(({ end }) => end))
  for (const destroy of destroys) {
    // There may have been no session to destroy before the first write.
    if (destroy.end === Infinity || destroy.start < firstWritten) continue
    if (!isDestroyed || lastStart > destroy.end)
      faults.push({ what: 'resurrected', events: latest ? [destroy, latest] : [destroy] })
  }
  return faults
}
