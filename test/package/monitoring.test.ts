// The programs of docs/guides/monitoring.md, with the real prom-client and OpenTelemetry, and the Grafana dashboard for them.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { context, metrics, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  InMemorySpanExporter,
  NodeTracerProvider,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-node'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { Browser } from '../helpers/http.js'
import { trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

const read = (name: string): string =>
  readFileSync(new URL(`../../../docs/guides/${name}`, import.meta.url), 'utf8')
const examples = [...read('monitoring.md').matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code ?? '')
const exampleWith = (text: string): string =>
  examples.find((code) => code.includes(text)) ?? expect.fail(`no example has ${text}`)

/** Runs a program inside the package, which can import itself; `use` receives what it prints first. */
async function withProgram(
  code: string,
  use: (printed: string, child: { stdout: Readable }) => Promise<void>,
): Promise<void> {
  const file = fileURLToPath(new URL('./monitoring-example.mjs', import.meta.url))
  writeFileSync(file, code)
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  try {
    const failed = exited.then(([code]) => expect.fail(`it exited with ${code} and printed nothing`))
    const [printed] = (await Promise.race([once(child.stdout.setEncoding('utf8'), 'data'), failed])) as [
      string,
    ]
    failed.catch(() => undefined)
    await use(printed, child)
  } finally {
    child.kill()
    await exited
    rmSync(file)
  }
}

/** The lines of a scrape, by name and labels. */
function parseScrape(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ')
      return [line.slice(0, at), Number(line.slice(at + 1))]
    }),
  )
}

describe('the metrics for Prometheus', () => {
  let scrape = new Map<string, number>()
  let types = new Map<string, string>()

  before(async () => {
    const url = await freshDatabase()
    const code = exampleWith('prom-client')
      .replace('postgres://user:password@localhost/app', url)
      // Once sessions are served from the cache, so that the counts are the same each time.
      .replace(
        'app.listen(3000)',
        "const server = app.listen(0); store.once('trust', () => console.log(server.address().port)); await store.setup()",
      )
    await withProgram(code, async (printed) => {
      const site = `http://127.0.0.1:${printed.trim()}`
      const browsers = [new Browser(), new Browser()]
      for (const browser of browsers)
        for (let visit = 0; visit < 3; visit++) expect((await browser.get(site)).status).to.equal(200)
      const { status, text, headers } = await new Browser().get(`${site}/metrics`)
      expect(status, text).to.equal(200)
      expect(headers.get('content-type')).to.match(/^text\/plain/)
      scrape = parseScrape(text)
      types = new Map(
        [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type]),
      )
    })
  })

  it('are scraped from a running application, and count what its requests did', () => {
    expect(scrape.get('koa_pg_store_sessions_created_total')).to.equal(2)
    expect(scrape.get('koa_pg_store_call_duration_seconds_count{method="set"}')).to.equal(6)
    expect(scrape.get('koa_pg_store_batches_total{method="set"}')).to.equal(6)
    expect(scrape.get('koa_pg_store_call_errors_total{method="set"}')).to.equal(0)
    const hits = scrape.get('koa_pg_store_cache_hits_total') ?? Number.NaN
    const reads = scrape.get('koa_pg_store_call_duration_seconds_count{method="get"}') ?? Number.NaN
    expect(hits + reads).to.equal(4)
    expect(scrape.get('koa_pg_store_cache_sessions')).to.equal(2)
    expect(scrape.get('koa_pg_store_notification_queue_ratio')).to.be.within(0, 1)
  })

  it('have a histogram in seconds, with cumulative buckets up to +Inf', () => {
    const bucket = (le: string) =>
      scrape.get(`koa_pg_store_call_duration_seconds_bucket{method="set",le="${le}"}`) ?? Number.NaN
    expect(bucket('+Inf')).to.equal(6)
    expect(bucket('10')).to.equal(6)
    expect(bucket('0.0005')).to.be.at.most(bucket('0.1'))
    const sum = scrape.get('koa_pg_store_call_duration_seconds_sum{method="set"}') ?? Number.NaN
    expect(sum).to.be.within(0, 60)
  })

  it('are named and typed as Prometheus asks: counters end in _total, and units are base units', () => {
    expect(types.size).to.be.above(12)
    for (const [name, type] of types) {
      expect(name).to.match(/^koa_pg_store_[a-z_]+$/)
      expect(name.endsWith('_total'), name).to.equal(type === 'counter')
      expect(name).not.to.match(/_ms$|milliseconds|percent/)
    }
  })

  describe('and their Grafana dashboard', () => {
    interface Panel {
      id: number
      title: string
      type: string
      datasource: { uid: string }
      gridPos: { x: number; y: number; w: number; h: number }
      targets: { expr: string; refId: string }[]
    }
    interface Dashboard {
      title: string
      uid: string
      schemaVersion: number
      panels: Panel[]
      templating: { list: { name: string; type: string }[] }
    }
    const load = (): Dashboard => JSON.parse(read('grafana-dashboard.json')) as Dashboard

    it('is valid JSON with what Grafana’s import needs', () => {
      const { title, uid, schemaVersion, panels, templating } = load()
      expect({ title, uid }).to.deep.equal({ title: 'koa-pg-store', uid: 'koa-pg-store' })
      expect(schemaVersion).to.be.at.least(36)
      expect(templating.list.map(({ name }) => name)).to.deep.equal(['datasource', 'instance'])
      expect(new Set(panels.map(({ id }) => id)).size).to.equal(panels.length)
      for (const { title, type, datasource, gridPos, targets } of panels) {
        expect(type, title).to.be.oneOf(['timeseries', 'stat'])
        // No id of one installation's data source: it couldn't be imported elsewhere.
        expect(datasource.uid, title).to.equal(`\${datasource}`)
        expect(gridPos.x + gridPos.w, title).to.be.at.most(24)
        expect(targets, title).not.to.deep.equal([])
      }
    })

    it('asks for metrics that the application has, and for every one of them', () => {
      const asked = new Set(
        load().panels.flatMap(({ targets }) =>
          targets.flatMap(({ expr }) => expr.match(/koa_pg_store_[a-z_]+/g) ?? []),
        ),
      )
      const served = (name: string): boolean => types.has(name.replace(/(_bucket|_count|_sum)$/, ''))
      expect([...asked].filter((name) => !served(name))).to.deep.equal([])
      const isAsked = (name: string): boolean => [...asked].some((used) => used.startsWith(name))
      expect([...types.keys()].filter((name) => !isAsked(name))).to.deep.equal([])
    })
  })
})

describe('the audit log', () => {
  it('prints what the comments of its example say', async () => {
    const code = exampleWith("store.on('revoke', ({ userId")
    const expected = [...code.matchAll(/ \/\/ (.*)$/gm)].flatMap(([, comment = '']) => comment.split(', '))
    const url = await freshDatabase()
    let printed = ''
    await withProgram(code.replace('postgres://user:password@localhost/app', url), async (first, child) => {
      printed = first
      for await (const text of child.stdout) printed += text
    })
    expect(printed.trim().split('\n')).to.deep.equal(expected)
  })
})

describe('the spans and metrics for OpenTelemetry', () => {
  const exporter = new InMemorySpanExporter()
  const metricExporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({ exporter: metricExporter })
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  const meterProvider = new MeterProvider({ readers: [reader] })

  before(async () => {
    provider.register()
    metrics.setGlobalMeterProvider(meterProvider)
    const file = fileURLToPath(new URL('./tracing-example.mjs', import.meta.url))
    writeFileSync(file, exampleWith('// tracing.js'))
    await import(pathToFileURL(file).href)
    rmSync(file)
  })
  afterEach(() => exporter.reset())
  after(async () => {
    await provider.shutdown()
    await meterProvider.shutdown()
    trace.disable()
    metrics.disable()
    context.disable()
  })
  const spans = (name: string): ReadableSpan[] =>
    exporter.getFinishedSpans().filter((span) => span.name === `${name} public.session`)

  it('name each operation, with the attributes of the conventions for databases', async () => {
    await using store = await trusted(await freshDatabase())
    const sids = await Promise.all([1, 2].map((n) => store.create({ n })))
    await store.get(sids[0] ?? '')
    await store.get(sids[1] ?? '', { fresh: true })
    await store.destroy(sids[0] ?? '')
    await store.sweep()
    const common = { 'db.system.name': 'postgresql', 'db.collection.name': 'public.session' }
    expect(spans('setup')).to.have.length(1)
    expect(spans('set').map(({ attributes }) => attributes)).to.deep.equal(
      Array(2).fill({ ...common, 'db.operation.name': 'set' }),
    )
    expect(spans('get').map(({ attributes }) => attributes['koa_pg_store.cached'])).to.deep.equal([
      true,
      false,
    ])
    const [batch] = spans('batch set')
    expect(batch?.kind).to.equal(SpanKind.CLIENT)
    expect(batch?.attributes).to.deep.equal({
      ...common,
      'db.operation.name': 'batch set',
      'db.operation.batch.size': 2,
    })
    // OpenTelemetry's conventions: no size for a batch of one.
    expect(spans('batch get')[0]?.attributes).not.to.have.property('db.operation.batch.size')
    expect(spans('sweep')[0]?.attributes).to.include({ 'koa_pg_store.deleted': 0 })
    for (const span of exporter.getFinishedSpans())
      expect(JSON.stringify([span.name, span.attributes])).not.to.include(sids[0])
  })

  it('belong to the span of the request', async () => {
    await using store = await trusted(await freshDatabase())
    await trace.getTracer('app').startActiveSpan('GET /', async (span) => {
      await store.create({ n: 1 })
      span.end()
    })
    const [request] = exporter.getFinishedSpans().filter(({ name }) => name === 'GET /')
    for (const name of ['set', 'batch set'])
      expect(spans(name)[0]?.parentSpanContext?.spanId).to.equal(request?.spanContext().spanId)
  })

  it('say what failed, without an id', async () => {
    const url = await freshDatabase()
    await using store = await trusted(url)
    await sql(url, 'drop table session')
    await rejection(store.get('an-id'))
    const [span] = spans('get')
    expect(span?.status.code).to.equal(SpanStatusCode.ERROR)
    expect(span?.attributes['error.type']).to.equal('ERR_SESSION_DATABASE')
    expect(span?.status.message)
      .to.match(/^can't read the session: /)
      .and.not.include('an-id')
  })

  it('record the duration of batches in seconds', async () => {
    await using store = new PgStore(await freshDatabase(), { cache: false })
    await store.create({ n: 1 })
    await reader.forceFlush()
    const [resource] = metricExporter.getMetrics().slice(-1)
    const metric = resource?.scopeMetrics.flatMap((scope) => scope.metrics).at(0)
    expect(metric?.descriptor).to.include({ name: 'db.client.operation.duration', unit: 's' })
    const point = metric?.dataPoints.find(({ attributes }) => attributes['db.operation.name'] === 'batch set')
    const { count, sum } = (point ?? expect.fail()).value as { count: number; sum: number }
    expect(count).to.be.at.least(1)
    expect(sum / count).to.be.within(0, 60)
  })
})
