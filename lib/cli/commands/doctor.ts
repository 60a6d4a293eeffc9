// koa-pg-store doctor: runs the checks of doctor-checks.ts and prints what they find.
import { readOptions } from '../../stores/options.js'
import { messageOf } from '../../util/driver-errors.js'
import type { Command } from '../command.js'
import type { Terminal } from '../terminal.js'
import {
  type Check,
  checkClocks,
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
  triggers: checkTriggers,
  ids: checkIds,
  users: checkUsers,
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
    const settings = readOptions({ ...options, create: false, hashIds: values['raw-ids'] !== true })
    const subject = { connection, settings, listenUrl: values['listen-url'] as string | undefined }
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
    const problems = findings.filter(({ status }) => status === 'problem').length
    if (values.json) terminal.json({ healthy: problems === 0, findings })
    else
      terminal.line(
        `\n${problems === 0 ? 'No problems' : problems === 1 ? '1 problem' : `${problems} problems`} found.`,
      )
    return problems === 0 ? 0 : 1
  },
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
