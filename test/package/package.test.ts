// The packed package, installed into an empty project and used from JavaScript, TypeScript and a bundle.
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { type BuildOptions, build } from 'esbuild'
import { readPages } from '../helpers/pages.js'
import { freshDatabase, sql } from '../helpers/server.js'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const tsc = join(dirname(fileURLToPath(import.meta.resolve('typescript/package.json'))), 'bin', 'tsc')

/** The packages that are installed with it, in the versions of this repository. */
const companions = [
  'koa',
  'koa-generic-session',
  'koa-session',
  '@types/koa',
  '@types/koa-generic-session',
  '@types/node',
]

/** Runs a program and returns its output; throws with that if it fails. */
async function run(file: string, args: string[], cwd: string): Promise<{ stdout: string; stderr: string }> {
  try {
    return await promisify(execFile)(file, args, { cwd })
  } catch (error) {
    const { message, stdout } = error as Error & { stdout?: string }
    throw new Error(`${message}\n${stdout ?? ''}`)
  }
}

/** Runs a user's program, which must exit by itself without a warning, and returns the JSON values that it printed. */
async function values(file: string, url: string): Promise<unknown[]> {
  const { stdout, stderr } = await run(process.execPath, [file, url], dirname(file))
  expect(stderr).to.equal('')
  const lines = stdout.split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as unknown)
}

const filesOf = async (folder: string): Promise<string[]> => {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  return files.map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort()
}

describe('the packed package', function () {
  this.timeout(180_000)
  let temporary: string
  /** A new project after `npm install koa-pg-store koa koa-generic-session`. */
  let project: string
  /** A folder without node_modules, in it or above it. */
  let alone: string
  let installed: string

  before(async () => {
    temporary = await mkdtemp(join(tmpdir(), 'koa-pg-store-package-'))
    project = join(temporary, 'project')
    alone = join(temporary, 'alone')
    installed = join(project, 'node_modules', 'koa-pg-store')
    await mkdir(project)
    await mkdir(alone)
    // The package is already built when the tests run.
    await run('npm', ['pack', '--ignore-scripts', '--pack-destination', temporary], root)
    const tarball = (await readdir(temporary)).find((name) => name.endsWith('.tgz')) ?? ''
    await write('package.json', '{ "name": "shop", "private": true }')
    const versions = companions.map(async (name) => {
      const file = join(root, 'node_modules', name, 'package.json')
      const { version } = JSON.parse(await readFile(file, 'utf8')) as { version: string }
      return `${name}@${version}`
    })
    // After `npm ci` everything is in npm's cache, so that no registry is needed.
    const options = ['--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund']
    await run('npm', ['install', ...options, join('..', tarball), ...(await Promise.all(versions))], project)
  })

  after(async () => {
    await rm(temporary, { recursive: true, force: true })
  })

  /** Writes a file into the project and returns its path. */
  async function write(name: string, text: string): Promise<string> {
    const file = join(project, name)
    await mkdir(dirname(file), { recursive: true })
    await writeFile(file, text)
    return file
  }

  /** Compiles files of the project, in strict mode with skipLibCheck off, and returns the output folder. */
  async function compile(
    module: 'nodenext' | 'node16' | 'commonjs' | 'esnext',
    files: Record<string, string>,
  ): Promise<string> {
    const folder = await mkdtemp(join(project, `${module}-`))
    const name = folder.slice(project.length + 1)
    const isNode = module.startsWith('node')
    const type = module === 'commonjs' ? 'commonjs' : 'module'
    const options = { strict: true, skipLibCheck: false, target: 'es2023', types: ['node'] }
    // TypeScript 7 has removed the older resolutions, which ignore `exports`.
    const moduleResolution = isNode ? module : 'bundler'
    const folders = { rootDir: '.', outDir: 'out' }
    const compilerOptions = { ...options, ...folders, module, moduleResolution }
    await write(join(name, 'package.json'), JSON.stringify({ type }))
    await write(join(name, 'tsconfig.json'), JSON.stringify({ compilerOptions }))
    for (const [file, text] of Object.entries(files)) await write(join(name, file), text)
    await run(process.execPath, [tsc, '--project', folder], folder)
    return join(folder, 'out')
  }

  describe('its files', () => {
    it('are the built lib/, the SQL, README, LICENSE, CHANGELOG and package.json, and nothing else', async () => {
      const built = (await filesOf(join(root, 'lib'))).flatMap((file) => {
        const [, name, c] = /^(.*)\.(c?)ts$/.exec(file) ?? []
        return [`${name}.d.${c}ts`, `${name}.${c}js`, `${name}.${c}js.map`]
      })
      const numbered = (await readdir(join(root, 'sql'))).filter((name) => name.endsWith('.sql'))
      expect(await filesOf(installed)).to.have.members([
        'CHANGELOG.md',
        'LICENSE',
        'README.md',
        'package.json',
        join('bin', 'koa-pg-store.js'),
        ...built.map((name) => join('build', 'lib', name)),
        ...numbered.map((name) => join('sql', name)),
      ])
    })

    it('are built from the current lib/', async () => {
      for (const name of await filesOf(join(root, 'lib'))) {
        const map = join(installed, 'build', 'lib', name.replace(/ts$/, 'js.map'))
        const { sourcesContent } = JSON.parse(await readFile(map, 'utf8')) as { sourcesContent: string[] }
        expect(sourcesContent, name).to.deep.equal([await readFile(join(root, 'lib', name), 'utf8')])
      }
    })

    it('contain the current statements of sql/', async () => {
      const copy = join(temporary, 'copy')
      await cp(join(root, 'sql'), join(copy, 'sql'), { recursive: true })
      await mkdir(join(copy, 'lib', 'schema'), { recursive: true })
      await writeFile(join(copy, 'package.json'), '{ "type": "module" }')
      await run(process.execPath, [join('sql', 'embed.js')], copy)
      const embedded = await readFile(join(copy, 'lib', 'schema', 'sql.ts'), 'utf8')
      expect(await readFile(join(root, 'lib', 'schema', 'sql.ts'), 'utf8')).to.equal(embedded)
    })

    it('contain no path of the machine that packed them', async () => {
      const paths = [root, temporary, homedir(), 'file://'].filter((path) => path.length > 1)
      for (const file of await filesOf(installed)) {
        const text = await readFile(join(installed, file), 'utf8')
        for (const path of paths) expect(text.includes(path), `${file} contains ${path}`).to.equal(false)
      }
    })

    it('have lockfiles for every platform, without URLs of a registry', async () => {
      await checkLockfile('package-lock.json', 'koa-pg-store')
      await checkLockfile('docs/package-lock.json', 'koa-pg-store-docs')
    })

    async function checkLockfile(file: string, name: string): Promise<void> {
      interface LockedPackage {
        resolved?: string
        integrity?: string
        optionalDependencies?: Record<string, string>
      }
      const lock = await readFile(join(root, file), 'utf8')
      const { packages } = JSON.parse(lock) as { packages: Record<string, LockedPackage> }
      const { '': own, ...others } = packages
      const names = new Set(Object.keys(others).map((path) => path.replace(/^.*node_modules\//, '')))
      for (const [path, { resolved, integrity, optionalDependencies = {} }] of Object.entries(others)) {
        expect(resolved, path).to.equal(undefined)
        expect(integrity, path).to.match(/^sha512-/)
        // `npm ci` refuses a lockfile without one of these; npm leaves out those that a registry lacks.
        for (const name of Object.keys(optionalDependencies)) expect(names, path).to.include(name)
      }
      expect(own).to.have.property('name', name)
    }
  })

  it('has a command', async () => {
    const { stdout } = await run(join(project, 'node_modules', '.bin', 'koa-pg-store'), ['--help'], project)
    expect(stdout).to.match(/^Usage: koa-pg-store <command>/m)
  })

  describe('in JavaScript', () => {
    it('exports the class to an ES module by name and by default', async () => {
      const file = await write(
        'app.mjs',
        `import PgStore from 'koa-pg-store'
        import { PgStore as Named } from 'koa-pg-store'
        import * as all from 'koa-pg-store'
        console.log(JSON.stringify([PgStore === Named, Object.keys(all)]))
        ${roundTrip}`,
      )
      const names = ['DatabaseError', 'PgStore', 'SessionTooLargeError', 'SetupError', 'default']
      const [[same, keys] = [], ...rest] = (await values(file, await freshDatabase())) as [unknown[]]
      expect([same, ...rest]).to.deep.equal([true, { visits: 1 }])
      expect(keys).to.include.members(names)
    })

    it('exports the class itself to a CommonJS module, with the other exports as its properties', async () => {
      const file = await write(
        'app.cjs',
        `const PgStore = require('koa-pg-store')
        const { PgStore: Named, SetupError, DatabaseError, SessionTooLargeError } = require('koa-pg-store')
        const byDefault = require('koa-pg-store').default
        console.log(JSON.stringify([PgStore.name, Named === PgStore, byDefault === PgStore]))
        const errors = [SetupError, DatabaseError, SessionTooLargeError]
        console.log(JSON.stringify(errors.map((Class) => Class.prototype instanceof Error)))
        async function main() { ${roundTrip} }
        main()`,
      )
      expect(await values(file, await freshDatabase())).to.deep.equal([
        ['PgStore', true, true],
        [true, true, true],
        { visits: 1 },
      ])
    })

    it('exports the same class to both in one process', async () => {
      const file = await write(
        'both.cjs',
        `const PgStore = require('koa-pg-store')
        import('koa-pg-store').then((all) => console.log(all.PgStore === PgStore && all.default === PgStore))`,
      )
      expect(await values(file, await freshDatabase())).to.deep.equal([true])
    })
  })

  describe('in TypeScript', () => {
    it('has types for an ES module, where module is nodenext', async () => {
      const out = await compile('nodenext', {
        'app.ts': `import Koa from 'koa'
        import session from 'koa-generic-session'
        import PgStore, { PgStore as Named, SetupError } from 'koa-pg-store'
        ${typed}
        const app = new Koa()
        app.use(session({ store: new Named(url) }))
        console.log(JSON.stringify([PgStore === Named, new SetupError('no') instanceof Error]))
        ${roundTrip}`,
      })
      const printed = await values(join(out, 'app.js'), await freshDatabase())
      expect(printed).to.deep.equal([[true, true], { visits: 1 }])
    })

    it('has types for a CommonJS module, where module is nodenext', async () => {
      const out = await compile('nodenext', {
        'app.cts': `import Koa = require('koa')
        import session = require('koa-generic-session')
        import PgStore = require('koa-pg-store')
        import { PgStore as Named, SetupError } from 'koa-pg-store'
        ${typed}
        const app = new Koa()
        app.use(session({ store: new PgStore(url) }))
        console.log(JSON.stringify([PgStore === Named, PgStore.SetupError === SetupError]))
        async function main() { ${roundTrip} }
        main()`,
      })
      const printed = await values(join(out, 'app.cjs'), await freshDatabase())
      expect(printed).to.deep.equal([[true, true], { visits: 1 }])
    })

    it('has types for a CommonJS module, where module is commonjs', async () => {
      const out = await compile('commonjs', {
        'app.ts': `import Koa from 'koa'
        import session from 'koa-generic-session'
        import PgStore, { PgStore as Named } from 'koa-pg-store'
        import * as all from 'koa-pg-store'
        ${typed}
        const app = new Koa()
        app.use(session({ store: new PgStore(url) }))
        console.log(JSON.stringify([PgStore === Named, all.PgStore === Named, all.default === Named]))
        async function main() { ${roundTrip} }
        main()`,
      })
      expect(await readFile(join(out, 'app.js'), 'utf8')).to.include('require("koa-pg-store")')
      const printed = await values(join(out, 'app.js'), await freshDatabase())
      expect(printed).to.deep.equal([[true, true, true], { visits: 1 }])
    })

    it('has types for every kind of import, where module is node16', async () => {
      // Without types of its own, CommonJS fails here with TS1479.
      const { cts, ts } = everyImport
      await compile('node16', { ...ts, ...cts })
    })

    it('has types for a bundler', async () => {
      await compile('esnext', everyImport.ts)
    })

    for (const { path, examples } of readPages()) {
      const programs = examples.filter(({ language }) => language === 'ts' || language === 'ts cts')
      // That page is about modules, among other things.
      const modules = path.endsWith('/typescript.md')
        ? (['node16', 'nodenext', 'esnext'] as const)
        : (['nodenext'] as const)
      for (const module of programs.length > 0 ? modules : [])
        it(`compiles the ${programs.length} examples of ${path}, where module is ${module}`, async () => {
          // Each in a project of its own, as the augmentations of one would reach the others.
          for (const { language, code } of programs) {
            const isCts = language === 'ts cts'
            if (module !== 'esnext' || !isCts)
              await compile(module, {
                ...(!isCts && { 'app.ts': code }),
                ...(module !== 'esnext' && { 'app.cts': code }),
              })
          }
        })
    }

    it('has the same names for require as for import', async () => {
      const names = /^export (?:type )?\{([^}]*)\}/gms
      const text = await readFile(join(root, 'lib', 'exports.ts'), 'utf8')
      const exported = [...text.matchAll(names)].flatMap(([, list = '']) =>
        list.split(',').map((name) => name.replace(/^\s*(type )?/, '').trim()),
      )
      const required = await readFile(join(root, 'lib', 'require.cts'), 'utf8')
      const isType = (name: string): boolean => /^[A-Z]/.test(name) && name !== 'PgStore'
      for (const name of exported.filter(isType))
        expect(required).to.match(new RegExp(`export type ${name}\\b`))
    })

    it('types the session of a PgStore<MySession>, of an import and of a require', async () => {
      const text = `
      interface MySession { userId: number; cart?: number[] }
      export async function mine(): Promise<void> {
        const store = new PgStore<MySession>('', {
          userId: (session) => session.userId,
          cleanup: { onExpired: ({ session }) => console.log(session.cart?.length) },
        })
        const session = await store.get('a-session')
        const cart: number[] | undefined = session?.cart
        await store.set('a-session', { userId: 7 })
        await store.create({ userId: 7, cart }, { ttl: 1 })
        store.on('expire', (expired) => console.log(expired.session.userId.toFixed()))
        store.once('sweep', ({ deleted }) => console.log(deleted.toFixed()))
        await once(store, 'connect')
        for (const { session } of await store.sessionsOf(7)) console.log(session?.userId.toFixed())
        for await (const { session } of store.sessions()) console.log(session?.userId.toFixed())
        const { healthy }: Health = await store.health()
        console.log(healthy)
      }`
      const names = `import { PgStore, type Health } from 'koa-pg-store'\nimport { once } from 'node:events'`
      await compile('node16', { 'mine.ts': `${names}\n${text}`, 'mine.cts': `${names}\n${text}` })
    })

    it('exports the class as a type too, for every kind of import', async () => {
      const open = 'export const open = (url: string): PgStore => new PgStore(url)\n'
      await compile('nodenext', {
        'named.ts': `import { PgStore } from 'koa-pg-store'\n${open}`,
        'default.ts': `import PgStore from 'koa-pg-store'\n${open}`,
        'named.cts': `import { PgStore } from 'koa-pg-store'\n${open}`,
        'default.cts': `import PgStore from 'koa-pg-store'\n${open}`,
        'required.cts': `import PgStore = require('koa-pg-store')\n${open}`,
      })
    })

    it('refuses what the store refuses', async () => {
      await compile('nodenext', {
        'wrong.ts': `import { PgStore, type PgStoreOptions } from 'koa-pg-store'
        // @ts-expect-error: no such option
        export const options: PgStoreOptions = { tabel: 'session' }
        // @ts-expect-error: no such option
        export const a = new PgStore('', { tabel: 'session' })
        // @ts-expect-error: not a number
        export const b = new PgStore('', { ttl: '1 day' })
        // @ts-expect-error: no such event
        b.on('warnings', console.error)
        // @ts-expect-error: no such event
        b.once('disconnect', console.error)
        // @ts-expect-error: not a connection
        export const d = new PgStore(5432)
        // @ts-expect-error: not an object
        export const e = b.set('a-session', 'signed in')
        // @ts-expect-error: may be undefined
        export const f = (await b.get('a-session')).visits
        interface MySession { userId: number; cart?: number[] }
        const mine = new PgStore<MySession>('', { userId: (session) => session.userId })
        // @ts-expect-error: no such attribute
        new PgStore<MySession>('', { userId: (session) => session.user })
        // @ts-expect-error: not a MySession
        mine.set('a-session', { cart: [7] })
        // @ts-expect-error: not a MySession
        mine.create({ userId: '7' })
        // @ts-expect-error: no such attribute
        mine.on('expire', ({ session }) => session.name)
        // @ts-expect-error: no such attribute
        for (const { session } of await mine.sessionsOf(7)) session.name`,
      })
    })
  })

  describe('in a bundle by esbuild', () => {
    async function bundle(name: string, text: string, options: BuildOptions): Promise<string> {
      const outfile = join(alone, name)
      const entry = await write(`bundled-${name}`, text)
      const result = await build({
        entryPoints: [entry],
        outfile,
        bundle: true,
        platform: 'node',
        external: ['pg-native'],
        logLevel: 'silent',
        ...options,
      })
      expect(result.warnings).to.deep.equal([])
      return outfile
    }

    /** Expects that a bundle creates its table without node_modules or sql/ beside it. */
    async function expectTable(file: string): Promise<void> {
      const url = await freshDatabase()
      expect(await readdir(alone)).to.deep.equal([file.slice(alone.length + 1)])
      expect(await values(file, url)).to.deep.equal([{ visits: 1 }])
      expect(await sql(url, 'select count(*)::int from session')).to.deep.equal([{ count: 1 }])
      await rm(file)
    }

    // pg is CommonJS; in an ES module, esbuild leaves it to the user to define require().
    const js = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"

    it('creates its table as an ES module', async () => {
      const text = `import { PgStore } from 'koa-pg-store'\n${roundTrip}`
      await expectTable(await bundle('app.mjs', text, { format: 'esm', banner: { js } }))
    })

    for (const format of ['esm', 'cjs'] as const)
      it(`sweeps by a cron expression, and refuses a wrong one, without changing a global (${format})`, async () => {
        const text = `import { PgStore } from 'koa-pg-store'\n${sweeping}`
        // node-cron asks for __filename, which an ES module lacks.
        const trap =
          "Object.defineProperty(globalThis, '__filename', { get() {}, set() { throw new Error('a global was set') } });"
        const banner = { js: `${format === 'esm' ? js : ''} ${trap}` }
        const file = await bundle(`app.${format === 'esm' ? 'mjs' : 'cjs'}`, text, { format, banner })
        const [swept, refused] = await values(file, await freshDatabase())
        expect(swept).to.include({ deleted: 0 })
        expect(refused).to.match(/^option "cleanup" must be a cron expression .*; received "61 \* \* \* \*"/)
        await rm(file)
      })

    it('creates its table as a CommonJS module', async () => {
      // esbuild's require() ignores the export `module.exports`, so the class is imported by name.
      const text = `const { PgStore } = require('koa-pg-store')\nasync function main() { ${roundTrip} }\nmain()`
      await expectTable(await bundle('app.cjs', text, { format: 'cjs' }))
    })

    it('creates its table as a CommonJS module from an ES module', async () => {
      const text = `import PgStore from 'koa-pg-store'\nasync function main() { ${roundTrip} }\nmain()`
      await expectTable(await bundle('app.cjs', text, { format: 'cjs' }))
    })
  })
})

const open = 'export const open = (url: string): PgStore => new PgStore(url)\n'
const others = `
  export const memory: MemoryStore = new MemoryStore({ ttl: 5 })
  export const isSetup = (error: unknown): error is SetupError => error instanceof SetupError
  export const cart: SessionKey<number, number> = sessionKey<number>('cart')
  export const session: Session = {}
  export class Own extends MemoryStore {}
`
const otherNames = 'MemoryStore, SetupError, sessionKey, type Session, type SessionKey'

/** The ways to import the package, in ES modules and in CommonJS. */
const everyImport = {
  ts: {
    'named.ts': `import { PgStore, ${otherNames} } from 'koa-pg-store'\n${open}${others}`,
    'default.ts': `import PgStore, { ${otherNames} } from 'koa-pg-store'\n${open}${others}`,
  },
  cts: {
    'named.cts': `import { PgStore, ${otherNames} } from 'koa-pg-store'\n${open}${others}`,
    'default.cts': `import PgStore from 'koa-pg-store'\n${open}`,
    'required.cts': `import PgStore = require('koa-pg-store')\n${open}
      export const memory: PgStore.MemoryStore = new PgStore.MemoryStore()
      export const named: PgStore.PgStore = new PgStore.PgStore()
      export const options: PgStore.PgStoreOptions = { ttl: 60_000 }`,
  },
}

/** The first program of a new user. */
const roundTrip = `
  const store = new PgStore(process.argv[2])
  await store.set('a-session', { visits: 1 }, 60_000)
  console.log(JSON.stringify(await store.get('a-session')))
  await store.close()
`

/** Prints what a scheduled sweep did, and the error for a wrong expression, of the constructor or of setup(). */
const sweeping = `
  async function main() {
    const store = new PgStore(process.argv[2], { cleanup: '* * * * * *' })
    const swept = new Promise((resolve) => store.once('sweep', resolve))
    await store.setup()
    const alive = setInterval(() => {}, 1_000)
    console.log(JSON.stringify(await swept))
    clearInterval(alive)
    await store.close()
    let wrong
    try {
      wrong = new PgStore(process.argv[2], { cleanup: '61 * * * *' })
      await wrong.setup()
    } catch (error) {
      console.log(JSON.stringify(error.message))
    }
    await wrong?.close()
  }
  main()
`

/** Checks of types, for a module that imports `PgStore` and gets a connection string as its argument. */
const typed = `
  import type { PgStoreOptions, Session } from 'koa-pg-store'
  const url = process.argv[2]
  const options: PgStoreOptions = { schema: 'public', table: 'session', create: true, ttl: 60_000, hashIds: true }
  type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
  async function check() {
    const store = new PgStore(url, options)
    const session = await store.get('a-session')
    const isSession: Same<typeof session, Session | undefined> = true
    const saved: void = await store.set('a-session', { visits: 1 })
    const sid: string = await store.create({ visits: 1 }, { ttl: 1000 })
    const active: number = await store.count()
    store.on('warning', (error) => console.error(error.message))
    return { isSession, saved, sid, active }
  }
  void check
`
