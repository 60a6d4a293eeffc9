// A child process that uses koa-pg-session: reads and writes sessions until a message arrives, then reports.
import co from 'co'
import PgSession from 'koa-pg-session'
import pg from 'pg'

const [url = ''] = process.argv.slice(2)
// pg 4, which koa-pg-session depends on, can't log in to a current server.
const pool = new pg.Pool({ connectionString: url, max: 3 })
const oldStore = new PgSession(async (text, values) => (await pool.query(text, values)).rows)
await oldStore.setup()
let running = true
process.on('message', () => {
  running = false
})

const sessions: Record<string, number> = {}
const errors: string[] = []
for (let n = 0; running; n++) {
  const sid = `koa:sess:old-${n % 200}`
  try {
    const loaded = (await co(function* () {
      yield* oldStore.set(sid, { n }, 600_000)
      return yield* oldStore.get(sid)
    })) as { n?: number } | false
    if (loaded === false || loaded?.n !== n) errors.push(`${n} is ${JSON.stringify(loaded)}`)
    sessions[sid] = n
  } catch (error) {
    errors.push(String(error))
  }
  if (n === 50) process.send?.('running')
}
await pool.end()
process.send?.({ sessions, errors })
process.disconnect()
