// Session ids, sessions and passwords do not leak through the table, errors or events.
import { inspect } from 'node:util'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'

const sid = 'koa:sess:OpenSesame-OpenSesame'
const content = 'Xyzzy-inside-the-session'

/** Returns everything that a log could print of an error. */
const printed = (error: Error): string =>
  inspect(error, { depth: 9, showHidden: true }) + JSON.stringify(error)

describe('a session id', () => {
  it('is not in the table', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    await store.set(sid, { a: 1 })
    const [row] = await sql(url, 'select t::text as row from session t')
    expect(row?.row).not.to.match(/OpenSesame|Xyzzy/)
    await store.close()
  })

  it('cannot be recovered from a dump: the stored id is not accepted', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    await store.set(sid, { a: 1 })
    const [row] = await sql<{ id: string }>(url, 'select id from session')
    for (const form of [row?.id, row?.id.slice('sha256:'.length), `koa:sess:${row?.id}`])
      expect(await store.get(form as string)).to.equal(undefined)
    await store.close()
  })

  for (const hashIds of [true, false])
    it(`and the session are in no error, even if the driver quotes them (hashIds: ${hashIds})`, async () => {
      const url = await freshDatabase()
      const pool = new pg.Pool({ connectionString: url })
      const failures: [string, (error: Error, text: string, values: unknown[]) => Error][] = [
        [
          'detail',
          (error, _, values) =>
            Object.assign(error, {
              detail: `Key (id)=(${values[0]}) already exists`,
              where: `JSON data, line 1: ${values[1]}`,
            }),
        ],
        [
          'parameters',
          (error, query, values) => Object.assign(error, { query, parameters: values, bindings: values }),
        ],
        ['JSON', (_, text, values) => new Error(`${text} failed: ${JSON.stringify(values)}`)],
        ['message', (_, text, values) => new Error(`${text} failed for ${values.join(', ')}`)],
      ]
      for (const [, fail] of failures) {
        let broken = false
        const store = new PgStore(
          async (text, values) => {
            if (broken) throw fail(new Error('it failed'), text, values)
            return pool.query(text, values)
          },
          { hashIds },
        )
        await store.setup()
        broken = true
        const calls = [store.get(sid), store.set(sid, { content }), store.touch(sid), store.destroy(sid)]
        // Other calls in the same batches.
        calls.push(store.get('neighbour-1'), store.set('neighbour-2', {}), store.destroy('neighbour-3'))
        for (const call of calls) {
          const text = printed(await rejection(call))
          expect(text).not.to.include(sid)
          expect(text).not.to.match(/sha256:[\w-]{43}/)
          expect(text).not.to.include(content)
        }
        await store.close()
      }
      await pool.end()
    })

  it('and the session are removed from errors in which PostgreSQL quotes them', async () => {
    const url = await freshDatabase()
    // jsonb refuses \u0000 and quotes the value in the error.
    await sql(url, 'create table session (id text primary key, expiry timestamptz not null, session jsonb)')
    const store = new PgStore(url, { hashIds: false, create: false })
    const error = await rejection(store.set(sid, { [content]: '\u0000' }))
    expect(error.message).to.match(/can't write the session: unsupported Unicode escape sequence/)
    expect(printed(error)).not.to.match(/OpenSesame|Xyzzy/)
    await store.close()
  })

  it('and the password are in no event of an outage', async () => {
    const server = await ownServer()
    const store = new PgStore(server.url)
    const events: Error[] = []
    store.on('warning', (error) => events.push(error))
    await store.set(sid, { content })
    await server.kill()
    events.push(await rejection(store.get(sid)), await rejection(store.set(sid, { content })))
    const password = new URL(server.url).password
    for (const error of events) {
      expect(printed(error)).not.to.match(/OpenSesame|Xyzzy/)
      expect(printed(error)).not.to.include(password)
    }
    // PostgreSQL removes its shared memory only at a start and a clean stop.
    await server.start()
    await store.close()
    await server.stop()
  })
})
