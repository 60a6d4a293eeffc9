// A process that still runs koa-pg-session: reads and writes sessions until it is told to stop, then says how it went.
import co from 'co'
import PgSession from 'koa-pg-session'
import pg from 'pg'

const [url = ''] = process.argv.slice(2)
// Its own driver, pg 4, can't log in to a server of today; its statements are its own.
const pool = new pg.Pool({ connectionString: url, max: 3 })
const old = new PgSession(async (text, values) => (await pool.query(text, values)).rows)
await old.setup()
let running = true
process.on('message', () => {
  running = false
})

const sessions: Record<string, number> = {}
const errors: string[] = []
for (let n = 0; running; n++) {
  const sid = `koa:sess:old-${n % 200}`
  try {
    const found = (await co(function* () {
      yield* old.set(sid, { n }, 600_000)
      return yield* old.get(sid)
    })) as { n?: number } | false
    if (found === false || found?.n !== n) errors.push(`${n} is ${JSON.stringify(found)}`)
    sessions[sid] = n
  } catch (error) {
    errors.push(String(error))
  }
  if (n === 50) process.send?.('under way')
}
await pool.end()
process.send?.({ sessions, errors })
process.disconnect()
