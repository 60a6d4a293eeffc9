// Rolling changes of options: two processes with different options use one table, and no user is signed out.

import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { run as command } from '../helpers/command.js'
import { start } from '../helpers/processes.js'
import {
  type CodecSpec,
  createCodec,
  type RollingConfig,
  type RollingReport,
} from '../helpers/programs/rolling-app.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** How long two processes run side by side, in ms. The figures of the changelog were measured with 30,000. */
const stepMs = Number(process.env.ROLLING_MS ?? 400)

type Step = Omit<RollingConfig, 'url' | 'name'>

/** What the processes have counted so far, by the attribute of the process and by session. */
type Totals = Map<string, Record<string, number>>

/** Runs two processes side by side on the same sessions. */
async function sideBySide(
  url: string,
  [one, two]: [Step, Step],
  sids: string[],
  totals: Totals,
  during?: (url: string) => Promise<unknown>,
): Promise<RollingReport[]> {
  const names = [`p${totals.size + 1}`, `p${totals.size + 2}`]
  const children = [one, two].map((step, n) =>
    start('rolling-app.js', [JSON.stringify({ url, name: names[n], ...step })]),
  )
  const reports: RollingReport[] = []
  try {
    const ready = children.map(
      (child, n) =>
        new Promise<void>((resolve, reject) => {
          child.on('message', (message: 'ready' | { sid: string } | RollingReport) => {
            if (message === 'ready') resolve()
            else if ('sid' in message) {
              sids.push(message.sid)
              const other = children[1 - n]
              if (other?.connected) other.send([message.sid], () => undefined)
            } else reports[n] = message
          })
          child.once('exit', () => reject(new Error('the process exited before it was ready')))
        }),
    )
    await ready[0]
    if (sids.length > 0) children[0]?.send([...sids])
    await ready[1]
    if (sids.length > 0) children[1]?.send([...sids])
    await sleep(stepMs / 2)
    const work = during?.(url)
    await sleep(stepMs / 2)
    const ended = children.map((child) => new Promise((resolve) => child.once('exit', resolve)))
    for (const child of children) child.send('stop')
    await Promise.all(ended)
    await work
  } finally {
    for (const child of children) child.kill()
  }
  for (const [n, report] of reports.entries()) totals.set(names[n] as string, report.counts)
  return reports
}

/** Runs each step beside the next one, and expects that nobody notices. Returns the numbers of sessions and reads. */
async function expectSmooth(
  steps: Step[],
  prepare?: (url: string) => Promise<unknown>,
  during?: (url: string) => Promise<unknown>,
): Promise<void> {
  const url = await freshDatabase()
  await prepare?.(url)
  const sids: string[] = []
  const totals: Totals = new Map()
  let reads = 0
  for (const [n, step] of steps.slice(1).entries())
    for (const report of await sideBySide(url, [steps[n] as Step, step], sids, totals, during)) {
      expect(report.errors, `step ${n + 1}`).to.deep.equal([])
      expect(report).to.include({ signedOut: 0, lost: 0 })
      expect(report.created).to.be.above(0)
      reads += report.reads
    }
  const { codec, options } = steps.at(-1) as Step
  await using store = new PgStore(url, {
    ...options,
    cache: false,
    ...(codec && { codec: codec.map(createCodec) }),
  })
  store.on('warning', () => undefined)
  let changes = 0
  for (const [name, counts] of totals)
    for (const [sid, count] of Object.entries(counts)) {
      expect(await store.get(sid), sid).to.have.property(name, count)
      changes += count
    }
  if (process.env.ROLLING_MS)
    console.log(`      ${sids.length} sessions, ${reads} reads, ${changes} changes: 0 signed out, 0 lost`)
}

/** Runs two processes of which one lacks a step, and expects errors at most: no user is signed out, and no change is lost. */
async function expectHarmless(steps: [Step, Step], expected?: RegExp): Promise<void> {
  const url = await freshDatabase()
  const totals: Totals = new Map()
  const sids: string[] = []
  const reports = await sideBySide(url, steps, sids, totals)
  for (const report of reports) expect(report).to.include({ signedOut: 0, lost: 0 })
  const errors = reports.flatMap((report) => report.errors)
  if (expected) expect(errors.join('\n')).to.match(expected)
  else expect(errors).to.deep.equal([])
}

describe('a rolling change of options', function () {
  this.timeout(20_000 + 10 * stepMs)

  const old: CodecSpec = { type: 'encrypted', keys: ['2025'] }
  const both: CodecSpec = { type: 'encrypted', keys: ['2025', '2026'] }
  const current: CodecSpec = { type: 'encrypted', keys: ['2026', '2025'] }
  const compressed: CodecSpec = { type: 'compressed' }
  const own: CodecSpec = { type: 'own' }
  const reading = (spec: CodecSpec): CodecSpec => ({ ...spec, decodeOnly: true })

  for (const cache of [undefined, false] as const) {
    const step = (...codec: CodecSpec[]): Step => ({
      ...(codec.length > 0 && { codec }),
      ...(cache === false && { options: { cache } }),
    })

    describe(cache === false ? 'without a cache' : 'with a cache', () => {
      it('begins to encrypt, and ends, without signing anyone out', () =>
        expectSmooth([step(), step(reading(old)), step({ ...old, allowPlain: true }), step(reading(old))]))

      it('changes keys without signing anyone out', () =>
        expectSmooth([step(old), step(both), step(current)]))

      if (cache === false) return

      it('begins to compress, and ends, beside encryption without signing anyone out', () =>
        expectSmooth([
          step(old),
          step(reading(compressed), old),
          step(compressed, old),
          step(reading(compressed), old),
        ]))

      it('adds and removes a codec of one’s own without signing anyone out', () =>
        expectSmooth([step(), step(reading(own)), step(own), step(reading(own))]))

      it('fails without a step, and loses nothing: encryption', () =>
        expectHarmless(
          [step(), step({ ...old, allowPlain: true })],
          /DecodeError: the session can't be decoded: it is encrypted/,
        ))

      it('fails without a step, and loses nothing: a key', () =>
        expectHarmless([step(old), step(current)], /DecodeError: .* needs the key "2026"/))

      it('fails without a step, and loses nothing: compression and a codec of one’s own', async () => {
        await expectHarmless(
          [step(), step(compressed)],
          /DecodeError: the session can't be decoded: it is compressed/,
        )
        await expectHarmless([step(old), step(own, old)], /DecodeError: .* the codec "own" encoded it/)
      })
    })
  }

  const raw: Step = { options: { hashIds: false } }
  const oldTable = (url: string) =>
    sql(url, 'create table session (id text not null primary key, expiry timestamptz not null, session json)')

  it('replaces koa-pg-session without signing anyone out', () =>
    expectSmooth(
      [
        { software: 'koa-pg-session', changesOwnOnly: true },
        { ...raw, changesOwnOnly: true },
      ],
      oldTable,
    ))

  for (const cache of [undefined, false] as const)
    it(`replaces raw ids by digests without signing anyone out (cache: ${cache})`, () =>
      expectSmooth(
        [{ options: { hashIds: false, cache } }, { options: { cache } }, { options: { cache } }],
        oldTable,
      ))

  it('replaces raw ids by digests in a partitioned table without signing anyone out', () =>
    expectSmooth(
      [
        { options: { hashIds: false, cache: false } },
        { options: { cache: false } },
        { options: { cache: false } },
      ],
      (url) =>
        sql(
          url,
          `create table session (id text primary key, expiry timestamptz not null, session json) partition by hash (id);
           ${[0, 1, 2, 3].map((n) => `create table session_${n} partition of session for values with (modulus 4, remainder ${n});`).join('')}`,
        ),
    ))

  it('keeps raw ids if the step with hashIds: false is left out', () =>
    expectSmooth([{ software: 'koa-pg-session', changesOwnOnly: true }, { changesOwnOnly: true }], oldTable))

  it('replaces raw ids by digests with migrate --to-hashed-ids, without signing anyone out', () =>
    expectSmooth([{}, {}], oldTable, async (url) => {
      const { status, errors } = await command(url, 'migrate', '--to-hashed-ids')
      expect(status, errors).to.equal(0)
    }))
})
