import { expect } from 'chai'
import pg from 'pg'
import { type ConnectionSource, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'

const url = 'postgres://user:secret@localhost/app'

describe('new PgStore', () => {
  const cases: [unknown, typeof TypeError | typeof RangeError, string][] = [
    [null, TypeError, 'options must be an object; received null'],
    ['public', TypeError, 'options must be an object; received "public" (a string)'],
    [{ shema: 'x' }, TypeError, 'option "shema" is unknown; known options: schema, table,'],
    [{ schema: 1 }, TypeError, 'option "schema" must be a string; received 1'],
    [
      { schema: '' },
      RangeError,
      'option "schema" must be a name of 1 to 63 bytes without NUL; received "" (a string)',
    ],
    [{ table: 'x'.repeat(64) }, RangeError, 'option "table" must be a name of 1 to 63 bytes'],
    [{ table: 'a\0' }, RangeError, 'option "table" must be a name of 1 to 63 bytes'],
    [{ table: null }, TypeError, 'option "table" must be a string; received null'],
    [{ create: 'no' }, TypeError, 'option "create" must be true or false; received "no" (a string)'],
    [{ maxLifetime: Number.MAX_SAFE_INTEGER }, RangeError, 'option "maxLifetime" must be at most 100 years'],
    [{ cache: true }, TypeError, 'option "cache" must be an object; received true'],
    [
      { cache: { size: 1 } },
      TypeError,
      'option "cache.size" is unknown; known options: max, maxBytes, ttl, propagate, maxStaleness',
    ],
    [
      { cache: { max: 0 } },
      RangeError,
      'option "cache.max" must be a whole number of sessions, 1 or more; received 0',
    ],
    [
      { cache: { ttl: -1 } },
      RangeError,
      'option "cache.ttl" must be a number of milliseconds above 0; received -1',
    ],
    [
      { cache: { maxStaleness: 1e10 } },
      RangeError,
      'option "cache.maxStaleness" must be between 100 ms and an hour',
    ],
    [
      { cache: { propagate: 'all' } },
      TypeError,
      'option "cache.propagate" must be \'invalidate\' or \'update\'; received "all" (a string)',
    ],
    [
      { listen: true },
      TypeError,
      'option "listen" must be a connection string, a pg configuration or false; received true',
    ],
    [{ listen: 'redis://x' }, TypeError, 'option "listen" string must look like'],
    [{ hashIds: 1 }, TypeError, 'option "hashIds" must be true or false; received 1'],
    [{ prepare: 'yes' }, TypeError, 'option "prepare" must be true or false; received "yes"'],
    [
      { ttl: '1 day' },
      TypeError,
      'option "ttl" must be a number of milliseconds; received "1 day" (a string)',
    ],
    [{ ttl: 0 }, RangeError, 'option "ttl" must be a number of milliseconds above 0; received 0'],
    [{ ttl: NaN }, RangeError, 'option "ttl" must be a number of milliseconds above 0; received NaN'],
    [
      { ttl: Infinity },
      RangeError,
      'option "ttl" must be a number of milliseconds above 0; received Infinity',
    ],
    [
      { maxLifetime: -1 },
      RangeError,
      'option "maxLifetime" must be a number of milliseconds above 0; received -1',
    ],
    [
      { maxLifetime: [] },
      TypeError,
      'option "maxLifetime" must be a number of milliseconds; received an array',
    ],
    [
      { cleanup: true },
      TypeError,
      'option "cleanup" must be a cron expression such as \'*/15 * * * *\', false or an object; received true',
    ],
    [{ cleanup: null }, TypeError, 'option "cleanup" must be a cron expression'],
    [
      { cleanup: '61 * * * *' },
      RangeError,
      'option "cleanup" must be a cron expression such as \'*/15 * * * *\'; received "61 * * * *" (a string)',
    ],
    [{ cleanup: { cron: '0 0 30 2 *' } }, RangeError, 'option "cleanup.cron" must be a cron expression'],
    [{ cleanup: { cron: 15 } }, TypeError, 'option "cleanup.cron" must be a cron expression'],
    [
      { cleanup: { every: 1 } },
      TypeError,
      'option "cleanup.every" is unknown; known options: cron, timezone,',
    ],
    [
      { cleanup: { timezone: 'Mars/Olympus' } },
      RangeError,
      'option "cleanup.timezone" must be a time zone such as \'Europe/Berlin\'; received "Mars/Olympus" (a string)',
    ],
    [
      { cleanup: { batchSize: 0 } },
      RangeError,
      'option "cleanup.batchSize" must be a whole number of sessions, 1 or more; received 0',
    ],
    [
      { cleanup: { grace: -1 } },
      RangeError,
      'option "cleanup.grace" must be a number of milliseconds above 0; received -1',
    ],
    [
      { cleanup: { onExpired: 'mail' } },
      TypeError,
      'option "cleanup.onExpired" must be a function; received "mail" (a string)',
    ],
    [{ cleanupTime: '1h' }, TypeError, 'option "cleanupTime" must be a number of milliseconds'],
    [{ cleanupTime: 0 }, RangeError, 'option "cleanupTime" must be a number of milliseconds above 0'],
    [{ cleanupTime: 2 ** 31 }, RangeError, 'option "cleanupTime" must be less than 2,147,483,648 ms'],
    [
      { cleanupTime: 60_000, cleanup: false },
      TypeError,
      'options "cleanup" and "cleanupTime" both set when to sweep; use only one',
    ],
    [
      { maxBytes: '1mb' },
      TypeError,
      'option "maxBytes" must be a number of bytes; received "1mb" (a string)',
    ],
    [
      { maxBytes: 1.5 },
      RangeError,
      'option "maxBytes" must be a whole number of bytes, 2 or more; received 1.5',
    ],
    [
      { maxAttributeBytes: '1mb' },
      TypeError,
      'option "maxAttributeBytes" must be a number of bytes; received "1mb" (a string)',
    ],
    [
      { maxAttributeBytes: 0 },
      RangeError,
      'option "maxAttributeBytes" must be a whole number of bytes, 1 or more; received 0',
    ],
    [
      { maxSessionsPerUser: true },
      TypeError,
      'option "maxSessionsPerUser" must be a number of sessions; received true',
    ],
    [
      { maxSessionsPerUser: 0 },
      RangeError,
      'option "maxSessionsPerUser" must be a whole number of sessions, 1 or more; received 0',
    ],
    [
      { maxSessionsPerUser: Infinity },
      RangeError,
      'option "maxSessionsPerUser" must be a whole number of sessions, 1 or more; received Infinity',
    ],
    [{ userId: 'id' }, TypeError, 'option "userId" must be a function; received "id" (a string)'],
    [
      { concurrency: 'last' },
      TypeError,
      `option "concurrency" must be 'merge', 'last-write' or 'reject'; received "last" (a string)`,
    ],
  ]
  for (const [options, type, message] of cases)
    it(`throws a ${type.name}: ${message}`, () => {
      expect(() => new PgStore(url, options as PgStoreOptions)).to.throw(type, message)
    })

  it('accepts every form of the sweep schedule', () => {
    const forms: PgStoreOptions[] = [
      { cleanup: false },
      { cleanup: '*/5 * * * * *' },
      { cleanup: '@hourly' },
      { cleanup: { cron: false } },
      { cleanup: { timezone: 'Europe/Berlin', grace: 0 } },
      { cleanupTime: 60_000, cleanup: { batchSize: 100 } },
    ]
    for (const options of forms) expect(() => new PgStore(url, options)).not.to.throw()
  })

  it('treats an option that is undefined as not given', () => {
    expect(
      () => new PgStore(url, { schema: undefined, ttl: undefined, maxLifetime: undefined }),
    ).not.to.throw()
  })

  const connections: [unknown, string][] = [
    [
      null,
      'connection must be a connection string, a pg configuration, a pg.Pool or a query function; received null',
    ],
    [5432, 'received 5432'],
    [[], 'received an array'],
    [
      '',
      'connection string must look like postgres://user:password@host:5432/database; received an empty string',
    ],
    ['redis://localhost', 'received one that begins with redis://'],
    ['user:secret@localhost/app', 'received one without postgres://'],
    ['postgres://user:secret@localhost:port/app', "received one that can't be parsed"],
    [
      'postgres://user:secret@one:5432,two:5432/app',
      'connection string names several hosts, of which pg can',
    ],
    ['postgres://user:secret@one,two/app', 'use one host name that always leads to the primary'],
    ['postgresql:///app?host=one,two', 'connection string names several hosts'],
    [{ host: 'one,two' }, 'connection has a "host" that names several hosts'],
    [
      'postgres://user:secret@localhost/app?target_session_attrs=read-write',
      'connection string has target_session_attrs=read-write, which pg ignores: remove it',
    ],
    [
      { host: 'localhost', target_session_attrs: 'primary' },
      "which pg doesn't know; remove it, and use a host",
    ],
    ['postgres://user:a@secret/word@localhost/app', 'write "@" as %40, "/" as %2F, "#" as %23'],
    ['postgres://user:a@secret#word@localhost/app', 'write "@" as %40'],
    ['postgres://user:a@secret?word@localhost/app', 'write "@" as %40'],
    ['postgres://user:secret#word@localhost/app', 'write "@" as %40'],
    [{ connectionString: 'postgres://user:a@secret/word@localhost/app' }, 'write "@" as %40'],
    [
      { connectionString: url, schema: 'app' },
      'connection has the key "schema", which is an option of the store: pass it in the second argument, new PgStore(connection, { schema })',
    ],
    [{ hots: 'localhost' }, 'connection has the key "hots", which pg doesn\'t know; did you mean "host"?'],
    [
      { conObject: { host: 'localhost' } },
      "which pg doesn't know; pass its value itself: new PgStore(conObject)",
    ],
    [
      { conString: url },
      'connection has the key "conString", which pg doesn\'t know; use "connectionString"',
    ],
    [{ pool: {}, tableName: 'session' }, 'pass the pool itself: new PgStore(pool)'],
    [{ host: 'localhost', sslmode: 'require' }, 'use "ssl", or sslmode in a connection string'],
    [{ connectionString: 7 }, 'connection string must look like'],
    [{ connectionString: 'mysql://user:secret@localhost/app' }, 'received one that begins with mysql://'],
    [new pg.Client(), 'received a client: pass (text, values) => client.query(text, values)'],
  ]
  for (const [connection, message] of connections)
    it(`throws a TypeError for a connection: ${message}`, () => {
      expect(() => new PgStore(connection as ConnectionSource)).to.throw(TypeError, message)
      try {
        new PgStore(connection as ConnectionSource)
      } catch (error) {
        expect((error as Error).message).not.to.include('secret')
      }
    })

  it('accepts a comma in a password', () => {
    for (const accepted of [
      'postgres://user:a,b@localhost/app',
      'postgres://localhost/app?target_session_attrs=any',
    ])
      expect(() => new PgStore(accepted)).not.to.throw()
  })

  it('accepts an "@" where it is certain what it means', () => {
    for (const ok of [
      'postgres://user:pa@ss@localhost/app',
      'postgres://user@server:pw@localhost/app',
      'postgres://localhost/app?user=name@server&password=a/b@c',
    ])
      expect(() => new PgStore(ok)).not.to.throw()
  })

  it('accepts every key of a pg configuration', () => {
    const config = {
      host: 'localhost',
      ssl: false,
      max: 5,
      min: 1,
      statement_timeout: 5_000,
      keepAlive: true,
    }
    expect(() => new PgStore({ ...config, application_name: 'shop', maxLifetimeSeconds: 60 })).not.to.throw()
    const parsed = { ...config, ssl: {}, sslmode: 'require' } as pg.PoolConfig
    expect(() => new PgStore(parsed)).not.to.throw()
  })

  describe('without a connection', () => {
    const names = ['DATABASE_URL', 'PGHOST', 'PGPORT', 'PGUSER', 'PGPASSWORD', 'PGDATABASE']
    const saved = names.map((name) => [name, process.env[name]] as const)
    beforeEach(() => {
      for (const name of names) delete process.env[name]
    })
    afterEach(() => {
      for (const [name, value] of saved)
        if (value !== undefined) process.env[name] = value
        else delete process.env[name]
    })

    it('uses DATABASE_URL, and otherwise the variables of libpq', async () => {
      const url = await freshDatabase()
      process.env.DATABASE_URL = url
      const one = new PgStore()
      await one.set('a-session', { n: 1 })
      await one.close()
      delete process.env.DATABASE_URL
      const { hostname, port, username, password, pathname } = new URL(url)
      Object.assign(process.env, {
        PGHOST: hostname,
        PGPORT: port,
        PGUSER: username,
        PGDATABASE: pathname.slice(1),
      })
      if (password) process.env.PGPASSWORD = password
      const two = new PgStore(undefined, { cache: false })
      expect(await two.get('a-session')).to.deep.equal({ n: 1 })
      await two.close()
    })

    it('throws if none of them is set, and names DATABASE_URL if that is wrong', () => {
      expect(() => new PgStore()).to.throw(
        TypeError,
        /^no database given, and DATABASE_URL is not set: pass a connection string/,
      )
      process.env.DATABASE_URL = ''
      expect(() => new PgStore()).to.throw(TypeError, /DATABASE_URL is empty/)
      process.env.DATABASE_URL = 'mysql://localhost'
      expect(() => new PgStore()).to.throw(
        TypeError,
        /^DATABASE_URL string must look like .* begins with mysql:/,
      )
    })
  })

  it('does no I/O', async () => {
    // No server listens on this port: connecting would fail.
    const store = new PgStore('postgres://user:secret@127.0.0.1:1/app')
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    await new Promise((resolve) => setImmediate(resolve))
    expect(warnings).to.deep.equal([])
    await store.close()
  })
})

describe('the size of an attribute', () => {
  it('is limited by maxAttributeBytes, in bytes of UTF-8, before anything is written', async () => {
    const url = await freshDatabase()
    await using store = new PgStore(url, { maxAttributeBytes: 10, maxBytes: 60 })
    // JSON has the quotes too: 8 bytes of text.
    const fits = { a: '12345678', b: 'ääää', c: '🙂🙂', d: [123, 567] }
    await store.set('a', fits)
    const before = await sql(url, 'select * from session')
    const cases: [object, object][] = [
      [{ a: '123456789' }, { attribute: 'a', bytes: 11, maxBytes: 10 }],
      [
        { a: 1, b: 'äääää' },
        { attribute: 'b', bytes: 12, maxBytes: 10 },
      ],
      [{ c: '🙂🙂x' }, { attribute: 'c', bytes: 11, maxBytes: 10 }],
      [{ cookie: { path: '/' } }, { attribute: 'cookie', bytes: 12, maxBytes: 10 }],
      [JSON.parse('{"__proto__":"123456789"}'), { attribute: '__proto__', bytes: 11, maxBytes: 10 }],
      [
        Object.fromEntries([...'abcdefg'].map((name) => [name, 'ääää'])),
        { attribute: undefined, bytes: 106, maxBytes: 60 },
      ],
    ]
    for (const [session, expected] of cases) {
      const error = await store.set('a', session).then(
        () => expect.fail(`saved ${JSON.stringify(session)}`),
        (error: unknown) => error,
      )
      expect(error).to.include({ name: 'SessionTooLargeError', ...expected })
    }
    expect(await sql(url, 'select * from session')).to.deep.equal(before)
    expect(await store.get('a')).to.deep.equal(fits)
  })

  it('is checked again after a merge, and the stored session is kept', async () => {
    const url = await freshDatabase()
    await using store = await trusted(url, { maxBytes: 40 })
    await store.set('x', {})
    const [one, two] = [(await store.get('x')) ?? {}, (await store.get('x')) ?? {}]
    await store.set('x', Object.assign(one, { one: 'x'.repeat(20) }))
    const error = await store.set('x', Object.assign(two, { two: 'x'.repeat(20) })).then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(error).to.include({ name: 'SessionTooLargeError', bytes: 59 })
    expect(await store.get('x', { fresh: true })).to.deep.equal({ one: 'x'.repeat(20) })
  })
})
