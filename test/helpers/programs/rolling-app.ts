// One process of a rolling deployment: reads, changes and creates sessions until it is told to stop, then reports.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import co from 'co'
import PgSession from 'koa-pg-session'
import pg from 'pg'
import {
  type Codec,
  compressed,
  decodeOnly,
  encrypted,
  PgStore,
  type PgStoreOptions,
} from '../../../lib/index.js'

/** A codec, as JSON. */
export interface CodecSpec {
  readonly type: 'encrypted' | 'compressed' | 'own'
  readonly keys?: string[]
  readonly allowPlain?: boolean
  readonly decodeOnly?: boolean
}

/** What a process is started with. */
export interface RollingConfig {
  readonly url: string
  /** Its attribute of each session: a counter. */
  readonly name: string
  readonly software?: 'koa-pg-session'
  readonly options?: Omit<PgStoreOptions, 'codec'>
  readonly codec?: CodecSpec[]
  /** Change only the sessions that this process created: koa-pg-session doesn't merge. */
  readonly changesOwnOnly?: boolean
}

export interface RollingReport {
  readonly signedOut: number
  readonly lost: number
  readonly errors: string[]
  readonly reads: number
  readonly created: number
  /** The counter of each session that this process changed. */
  readonly counts: Record<string, number>
}

export function createCodec({ type, keys = [], allowPlain, decodeOnly: isDecodeOnly }: CodecSpec): Codec {
  const own: Codec = {
    name: 'own',
    encode: (value) => ({ text: Buffer.from(JSON.stringify(value)).toString('hex') }),
    decode: (value) => {
      const text: unknown = Reflect.get(value, 'text')
      return typeof text === 'string' ? (JSON.parse(Buffer.from(text, 'hex').toString()) as object) : value
    },
  }
  const codec =
    type === 'own'
      ? own
      : type === 'compressed'
        ? compressed({ over: 10 })
        : encrypted({
            keys: keys.map((id) => ({ id, key: createHash('sha256').update(id).digest() })),
            allowPlain,
          })
  return isDecodeOnly ? decodeOnly(codec) : codec
}

interface Store {
  get(sid: string): PromiseLike<object | undefined>
  set(sid: string, session: object): PromiseLike<unknown>
  close(): Promise<unknown>
}

async function createStore({ url, software, options, codec }: RollingConfig): Promise<Store> {
  if (software === undefined) {
    const store = new PgStore(url, { ...options, ...(codec && { codec: codec.map(createCodec) }) })
    store.on('warning', () => undefined)
    await store.setup()
    return {
      get: (sid) => store.get(sid),
      set: (sid, session) => store.set(sid, session),
      close: () => store.close(),
    }
  }
  const pool = new pg.Pool({ connectionString: url, max: 3 })
  const store = new PgSession(async (text, values) => (await pool.query(text, values)).rows)
  await store.setup()
  return {
    get: (sid) =>
      co(function* () {
        return ((yield* store.get(sid)) || undefined) as object | undefined
      }),
    set: (sid, session) =>
      co(function* () {
        yield* store.set(sid, session, 600_000)
      }),
    close: () => pool.end(),
  }
}

async function run(config: RollingConfig): Promise<void> {
  const { name, changesOwnOnly } = config
  const store = await createStore(config)
  const sids: string[] = []
  const own = new Set<string>()
  let running = true
  process.on('message', (message: string[] | 'stop') => {
    if (message === 'stop') running = false
    else sids.push(...message)
  })
  process.send?.('ready')
  const counts: Record<string, number> = {}
  const errors = new Set<string>()
  let [signedOut, lost, reads, created] = [0, 0, 0, 0]
  const visit = async (sid: string): Promise<void> => {
    reads++
    const session = (await store.get(sid)) as Record<string, unknown> | undefined
    if (session === undefined) {
      signedOut++
      return
    }
    if (session.user !== sid || (session[name] ?? 0) !== (counts[sid] ?? 0)) lost++
    if (changesOwnOnly && !own.has(sid)) return
    const next = (counts[sid] ?? 0) + 1
    session[name] = next
    await store.set(sid, session)
    counts[sid] = next
  }
  for (let n = 0; running; n++) {
    try {
      if (n % 20 === 0) {
        const sid = `koa:sess:${name}-${n}`
        await store.set(sid, { user: sid, padding: 'x'.repeat(300), [name]: 1 })
        counts[sid] = 1
        own.add(sid)
        created++
        sids.push(sid)
        process.send?.({ sid })
      }
      // Several at once, but each session once at a time: this process counts its own changes.
      const chosen = new Set(
        Array.from({ length: 4 }, () => sids[Math.floor(Math.random() * sids.length)] as string),
      )
      for (const visited of await Promise.allSettled([...chosen].map(visit)))
        if (visited.status === 'rejected') throw visited.reason
    } catch (error) {
      errors.add(String(error).slice(0, 200))
      await sleep(5)
    }
  }
  await store.close()
  const report: RollingReport = { signedOut, lost, errors: [...errors], reads, created, counts }
  // koa-pg-session's timer would keep the process running.
  process.send?.(report, () => process.exit())
}

const [config] = process.argv.slice(2)
if (config !== undefined && process.send) await run(JSON.parse(config) as RollingConfig)
