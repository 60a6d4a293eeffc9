// The program that runs PostgreSQL's commands, one at a time, for its parent process, and cleans up when the parent has exited.
import { type ChildProcess, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'

export interface Command {
  file: string
  args: string[]
  cwd: string
  uid?: number
  gid?: number
}

/** A command and all of its children have exited: its exit code (null: a signal) and the end of its output. */
export interface Ended {
  ended: number | null
  output: string
}

/** The process id as soon as the command runs, later its end. */
export type Report = { started: number } | Ended

const shutdownTimeoutMs = 20_000
const folderToRemove = process.argv[2]
let running: { child: ChildProcess; exit: Promise<void> } | undefined

// Only the parent's exit ends this process: neither a signal nor `killall node` may.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
process.title = 'pg-supervisor'

process.on('message', ({ file, args, ...options }: Command) => {
  const child = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const collect = (text: string) => {
    output = (output + text).slice(-4000)
  }
  child.stdout.setEncoding('utf8').on('data', collect)
  child.stderr.setEncoding('utf8').on('data', collect)
  child.once('error', (error) => collect(error.message))
  const exit = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
  running = { child, exit }
  if (child.pid) report({ started: child.pid })
  // 'close', not 'exit': the pipes close when the last process that inherited them has exited.
  child.once('close', (code) => {
    running = undefined
    report({ ended: code, output: output.trim() })
  })
})

async function shutDown(): Promise<void> {
  if (running) {
    // A server whose data is removed needs no checkpoint, which takes long after hundreds of tests.
    running.child.kill(folderToRemove ? 'SIGQUIT' : 'SIGINT')
    running.child.kill('SIGCONT')
    const timeout = setTimeout(() => running?.child.kill('SIGKILL'), shutdownTimeoutMs)
    await running.exit
    clearTimeout(timeout)
  }
  if (folderToRemove) await rm(folderToRemove, { recursive: true, force: true, maxRetries: 20 })
  process.exit()
}

// The parent may have exited before this line.
if (process.connected) process.once('disconnect', shutDown)
else shutDown()

/** Ignores errors: the parent may have exited. */
function report(report: Report): void {
  if (process.connected) process.send?.(report, undefined, undefined, () => {})
}
