// koa-pg-store doctor: runs the checks of doctor-checks.ts and prints what they find.
import { readOptions } from '../../stores/options.js'
import { messageOf } from '../../util/driver-errors.js'
import type { Command } from '../command.js'
import type { Terminal } from '../terminal.js'
import {
  type Check,
  checkClocks,
  checkCodec,
  checkCommits,
  checkConnection,
  checkIds,
  checkIndexes,
  checkNotifications,
  checkServer,
  checkSweeps,
  checkTable,
  checkTriggers,
  checkUsers,
  checkVacuum,
  type Finding,
} from './doctor-checks.js'

/** In the order in which they run, by the names that are printed if they fail. */
const serverChecks: Record<string, Check> = { server: checkServer, clocks: checkClocks }
const tableChecks = {
  notifications: checkNotifications,
  commits: checkCommits,
  triggers: checkTriggers,
  ids: checkIds,
  users: checkUsers,
  codec: checkCodec,
  indexes: checkIndexes,
  autovacuum: checkVacuum,
  sweeps: checkSweeps,
}

const colours = { ok: 'green', note: 'yellow', problem: 'red' } as const

export const doctor: Command = {
  summary: 'Check database and table, and say how to solve problems',
  help: `
Usage: koa-pg-store doctor [--listen-url <postgres://…>] [--json]

Checks the connection, the server, the rights, and the table with its triggers
and indexes, sends a notification and waits for it, and compares the clocks.
Changes nothing. Use the role and the address that the application uses. Exit
status 1 if there is a problem.

Options:
  --listen-url <…>       The application's option listen, if it has one.
  --raw-ids              For stores with hashIds: false.`,
  options: { 'listen-url': { type: 'string' }, 'raw-ids': { type: 'boolean' } },
  async run({ values, terminal, options, connection }) {
    const settings = readOptions({
      ...options,
      create: false,
      hashIds: values['raw-ids'] ? false : options.hashIds,
    })
    const subject = {
      connection,
      settings,
      hasConfig: values.config !== undefined,
      listen: (values['listen-url'] as string | undefined) ?? options.listen,
    }
    const findings: Finding[] = []
    const add = (found: readonly Finding[]): void => {
      findings.push(...found)
      if (!values.json) for (const finding of found) print(terminal, finding)
    }
    const connected = await checkConnection(subject)
    add(connected)
    if (connected.every(({ status }) => status === 'ok')) {
      for (const [name, check] of Object.entries(serverChecks)) add(await run(name, () => check(subject)))
      const { table, found } = await checkTable(subject)
      add(found)
      if (table)
        for (const [name, check] of Object.entries(tableChecks))
          add(await run(name, () => check(subject, table)))
    }
    const count = (status: Finding['status']): number =>
      findings.filter((finding) => finding.status === status).length
    const [problems, notes] = [count('problem'), count('note')]
    if (values.json) terminal.json({ healthy: problems === 0, findings })
    else terminal.line(`\n${terminal.style('bold', verdict(problems, notes))}`)
    return problems === 0 ? 0 : 1
  },
}

function verdict(problems: number, notes: number): string {
  const count = (n: number, noun: string): string => (n === 1 ? `1 ${noun}` : `${n} ${noun}s`)
  if (problems > 0) return `The store doesn't work as it should: ${count(problems, 'problem')} to solve.`
  return notes > 0 ? `The store works, with ${count(notes, 'note')}.` : 'The store works.'
}

/** A check that fails is a problem too, and doesn't keep the others from running. */
async function run(name: string, check: () => Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await check()
  } catch (error) {
    return [{ check: name, status: 'problem', message: messageOf(error) }]
  }
}

function print(terminal: Terminal, { check, status, message, advice }: Finding): void {
  terminal.line(`${terminal.style(colours[status], status.padEnd(7))}  ${check}: ${message}`)
  if (advice) terminal.line(`         → ${advice}`)
}
