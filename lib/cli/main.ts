// The entry point of the command line: finds the command and the database, and prints errors.
import { createRequire } from 'node:module'
import { type ParseArgsConfig, parseArgs } from 'node:util'
import { connect, fromEnvironment } from '../postgres/connect.js'
import type { Connection } from '../postgres/connection.js'
import { readOptions } from '../stores/options.js'
import { SetupError } from '../types/errors.js'
import { didYouMean } from '../util/did-you-mean.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { type Command, type Context, isHandle, UsageError } from './command.js'
import { doctor } from './commands/doctor.js'
import { exportSessions } from './commands/export.js'
import { importSessions } from './commands/import.js'
import { list } from './commands/list.js'
import { migrate } from './commands/migrate.js'
import { revoke } from './commands/revoke.js'
import { stats } from './commands/stats.js'
import { sweep } from './commands/sweep.js'
import { type Config, loadConfig } from './config.js'
import { Terminal } from './terminal.js'

const commands: Record<string, Command> = {
  sweep,
  migrate,
  stats,
  list,
  revoke,
  import: importSessions,
  export: exportSessions,
  doctor,
}

const commonOptions = {
  url: { type: 'string' },
  schema: { type: 'string' },
  table: { type: 'string' },
  config: { type: 'string' },
  json: { type: 'boolean' },
  verbose: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
} as const satisfies ParseArgsConfig['options']

const commonHelp = `The database:
  --url <postgres://…>   Default: DATABASE_URL, or PGHOST, PGPORT, PGUSER,
                         PGPASSWORD and PGDATABASE. Prefer the variables: other
                         users of the machine may see command lines.
  --schema <name>        Default: public
  --table <name>         Default: session
  --config <module>      A module of the application, by its path from here,
                         whose default export has the options of its store:
                           export default { connection: …, table: …, codec: … }
                         Its connection is used unless --url is given.

All commands:
  --json                 Print JSON.
  --verbose              Print the stack trace of an error.
  -h, --help
  -v, --version

Exit status: 0 success, 1 failure, 2 mistake in the command line.`

const overview = `koa-pg-store manages Koa sessions in PostgreSQL.

Usage: koa-pg-store <command> [options]

Commands:
${Object.entries(commands)
  .map(([name, { summary }]) => `  ${name.padEnd(10)} ${summary}`)
  .join('\n')}

To begin:
  export DATABASE_URL=postgres://user:password@localhost/app
  koa-pg-store doctor

koa-pg-store <command> --help describes a command.

${commonHelp}`

async function main(args: string[], terminal: Terminal): Promise<number> {
  const [name = '--help', ...rest] = commandFirst(args)
  if (name === '--version' || name === '-v') {
    terminal.line(version())
    return 0
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    const subject = commands[rest[0] ?? '']
    terminal.line(subject ? helpOf(subject) : overview)
    return args.length === 0 ? 2 : 0
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (name.startsWith('-'))
    throw new UsageError(`no command given; commands: ${Object.keys(commands).join(', ')}`)
  if (command === undefined)
    throw new UsageError(
      `unknown command ${JSON.stringify(name)}; commands: ${Object.keys(commands).join(', ')}${didYouMean(name, Object.keys(commands))}`,
    )
  const { values, positionals } = parse(command, rest)
  if (values.help) {
    terminal.line(helpOf(command))
    return 0
  }
  if (values.version) {
    terminal.line(version())
    return 0
  }
  const config = values.config === undefined ? undefined : await loadConfig(values.config as string)
  const options = {
    ...config?.options,
    schema: (values.schema as string | undefined) ?? config?.options.schema,
    table: (values.table as string | undefined) ?? config?.options.table,
  }
  asUsageError(() => readOptions(options))
  const needsDatabase = command.needsDatabase?.(values) ?? true
  const connection = needsDatabase ? openDatabase(values, config, terminal) : undefined
  try {
    return await command.run({ values, positionals, terminal, options, connection: connection as Connection })
  } finally {
    await connection?.end()
  }
}

/** Moves the command to the front: options may come before it. */
function commandFirst(args: readonly string[]): string[] {
  const takesValue = ['--url', '--schema', '--table']
  const index = args.findIndex((arg, n) => !arg.startsWith('-') && !takesValue.includes(args[n - 1] ?? ''))
  const command = args[index]
  const first = args[0] ?? ''
  if (command === undefined || ['--help', '-h', '--version', '-v'].includes(first)) return [...args]
  return [command, ...args.filter((_, n) => n !== index)]
}

function version(): string {
  const { version } = createRequire(import.meta.url)('koa-pg-store/package.json') as { version: string }
  return version
}

function helpOf({ help }: Command): string {
  return `${help.trim()}\n\n${commonHelp}`
}

function parse(command: Command, args: string[]): Pick<Context, 'values' | 'positionals'> {
  const allowPositionals = command.takesHandles === true
  const options = { ...commonOptions, ...command.options }
  try {
    const { values, positionals } = parseArgs({
      args: allowPositionals ? separateHandles(args) : args,
      options,
      allowPositionals,
    })
    return { values: values as Context['values'], positionals }
  } catch (error) {
    const name = /^Unknown option '(--[^']*)'/.exec(messageOf(error))?.[1]
    if (codeOf(error) !== 'ERR_PARSE_ARGS_UNKNOWN_OPTION' || name === undefined)
      throw new UsageError(messageOf(error), { cause: error })
    const known = Object.keys(options).map((option) => `--${option}`)
    throw new UsageError(`unknown option ${JSON.stringify(name)}${didYouMean(name, known)}`, { cause: error })
  }
}

/** Moves handles behind `--`: one in 64 begins with a hyphen, and would be parsed as an option. */
function separateHandles(args: readonly string[]): string[] {
  const options: string[] = []
  const handles: string[] = []
  for (const arg of args) {
    const isValue = options.at(-1) === '--except'
    if (isValue) options.push(`${options.pop()}=${arg}`)
    else if (arg.startsWith('-') && isHandle(arg)) handles.push(arg)
    else options.push(arg)
  }
  if (handles.length > 0 && !options.includes('--')) options.push('--')
  return [...options, ...handles]
}

/** Runs a check of what the user typed: its errors are usage errors. */
function asUsageError<T>(check: () => T): T {
  try {
    return check()
  } catch (error) {
    throw new UsageError(messageOf(error).replace(/^option "(schema|table)"/, '--$1'), { cause: error })
  }
}

function openDatabase(
  { url }: Context['values'],
  config: Config | undefined,
  terminal: Terminal,
): Connection {
  const warn = (error: Error): void => terminal.note(error.message)
  if (url === undefined && config?.connection !== undefined) {
    const { connection } = config
    return asUsageError(() => connect(connection, { warn }))
  }
  const source = asUsageError(() =>
    url === undefined ? fromEnvironment() : { connectionString: url as string },
  )
  if (source === undefined)
    throw new UsageError(
      `no database given, and DATABASE_URL is ${process.env.DATABASE_URL === '' ? 'empty' : 'not set'}: set` +
        ' DATABASE_URL=postgres://user:password@host/database, or use --url',
    )
  return asUsageError(() => connect({ ...source, max: 2 }, { warn }))
}

const terminal = new Terminal(process.stdout, process.stderr, process.env, process.stdin)
try {
  process.exitCode = await main(process.argv.slice(2), terminal)
} catch (error) {
  const isUsage = error instanceof UsageError
  const [command] = commandFirst(process.argv.slice(2))
  const text = messageOf(error).replaceAll(/\s*\n\s*/g, ' ')
  // The files of sql/ are what migrate runs.
  const isOutdated = error instanceof SetupError && /sql\/00/.test(text) && command !== 'migrate'
  terminal.note(`koa-pg-store: ${text}${isOutdated ? '. Or run koa-pg-store migrate' : ''}`)
  if (isUsage) {
    const subject = command && Object.hasOwn(commands, command) ? `${command} ` : ''
    terminal.note(`See koa-pg-store ${subject}--help`)
  } else if (process.argv.includes('--verbose')) terminal.note(String((error as Error).stack))
  process.exitCode = isUsage ? 2 : 1
}
// What a module given by --config has opened could keep the process running, and so could a server that doesn't answer.
if (process.argv.some((argument) => /^--(config(=|$)|watch$)/.test(argument)))
  process.stdout.write('', () => process.stderr.write('', () => process.exit()))
