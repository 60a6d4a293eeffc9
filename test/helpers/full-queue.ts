// Fills a server's queue of notifications, as an application does that listens and then stays in a transaction.
import pg from 'pg'

/** Of `ownServer`, on PostgreSQL 17 or newer: elsewhere the queue has 8 GB. */
export const smallQueue = { max_notify_queue_pages: '64' }

export interface Holder {
  /** The process id of the backend that holds the queue. */
  readonly pid: number
  /** Ends its transaction. */
  release(): Promise<void>
}

/** Fills the queue up to this share, from 0 to 1, and keeps it from being emptied. */
export async function fillQueue(url: string, share = 1): Promise<Holder> {
  const holder = new pg.Client({ connectionString: url, application_name: 'holder' })
  const filler = new pg.Client(url)
  await Promise.all([holder.connect(), filler.connect()])
  await holder.query('listen anything')
  const { rows } = await holder
    .query('begin; select pg_backend_pid() as pid')
    .then((results) => (results as unknown as pg.QueryResult[])[1] as pg.QueryResult)
  const usage = async (): Promise<number> =>
    (await filler.query('select pg_notification_queue_usage() as usage')).rows[0].usage
  try {
    for (let n = 0; share === 1 || (await usage()) < share; n++)
      await filler.query('select pg_notify($1, $2)', [`fill_${n}`, 'x'.repeat(7_000)])
  } catch (error) {
    if ((error as pg.DatabaseError).code !== '54000') throw error
  }
  await filler.end()
  return { pid: rows[0].pid, release: () => holder.end() }
}
