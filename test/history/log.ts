// What PostgreSQL itself says was written, and in which order: a log that a trigger keeps of every change of a session.
import { PgStore } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { sql } from '../helpers/server.js'
import { type Fault, group } from './check.js'
import type { Event } from './event.js'

/** A session was written, or ended (`null`). */
export interface Logged {
  id: string
  n: number | null
}

export async function keepLog(url: string): Promise<void> {
  const store = new PgStore(url, { cache: false })
  await store.setup()
  await store.close()
  // While the row is locked: a session's changes are numbered as they are committed. A touch changes no session.
  await sql(
    url,
    `create table log (place bigserial primary key, id text not null, n bigint);
    create function log() returns trigger language plpgsql as $$ begin
      insert into log (id, n) values (new.id, (new.session->>'n')::bigint);
      return null;
    end $$;
    create trigger log after insert or update of session on session for each row execute function log()`,
  )
}

export async function readLog(url: string): Promise<Logged[]> {
  return sql<Logged & Record<string, unknown>>(url, 'select id, n::float8 from log order by place')
}

/** The sessions that the table doesn't have as the log says. */
export async function lostRows(url: string): Promise<string[]> {
  const rows = await sql<{ id: string }>(
    url,
    `select last.id from (select distinct on (id) id, n from log order by id, place desc) as last
     left join session as s using (id) where s.id is null or (s.session->>'n')::bigint is distinct from last.n`,
  )
  return rows.map(({ id }) => id)
}

/**
 * Finds acknowledged writes that were not made though nobody had ended their session, writes made in another order than
 * that of the calls, and sessions that were ended and live on.
 */
export function checkLog(events: Event[], log: Logged[]): Fault[] {
  const logs = group(log, ({ id }) => id)
  const histories = group(events, ({ key }) => `sha256:${digestOf(key)}`)
  return [...histories].flatMap(([id, history]) =>
    checkOne(
      history,
      (logs.get(id) ?? []).map(({ n }) => n),
    ),
  )
}

function checkOne(history: Event[], log: Logged['n'][]): Fault[] {
  const faults: Fault[] = []
  const writes = new Map(history.filter(({ kind }) => kind === 'write').map((event) => [event.value, event]))
  const ends = history.filter(({ kind }) => kind === 'end')
  const made = new Set<Event>()
  /** Of those that were made, the one that began last. */
  let latest: Event | undefined
  for (const [place, n] of log.entries()) {
    const write = writes.get(n)
    if (n === null) {
      if (place < log.length - 1) faults.push({ what: 'brought back', events: ends })
    } else if (write === undefined || made.has(write)) faults.push({ what: 'out of nowhere', events: ends })
    else {
      // One call came after another if it began after that one's end.
      if (latest && write.end < latest.start) faults.push({ what: 'out of order', events: [latest, write] })
      if (latest === undefined || write.start > latest.start) latest = write
      made.add(write)
    }
  }
  const isOver = log.includes(null)
  const lastBegan = latest?.start ?? 0
  if (isOver && !ends.some(({ end }) => end > lastBegan))
    faults.push({ what: 'out of nowhere', events: ends })
  // A write that was acknowledged and not made came after the end, and that after every write that was made.
  const over = Math.max(lastBegan, Math.min(...ends.map(({ start }) => start)))
  for (const write of writes.values())
    if (write.end < Infinity && !made.has(write) && !(isOver && write.end > over))
      faults.push({ what: 'lost', events: [write] })
  const firstMade = Math.min(...[...made].map(({ end }) => end))
  for (const end of ends) {
    // Where nothing was there yet, there was nothing to end.
    if (end.end === Infinity || end.start < firstMade) continue
    if (!isOver || lastBegan > end.end)
      faults.push({ what: 'brought back', events: latest ? [end, latest] : [end] })
  }
  return faults
}
