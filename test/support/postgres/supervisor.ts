// A process of its own: runs commands, one at a time, for the process that forked it, and tidies up when that is gone.
import { type ChildProcess, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'

export interface Command {
  file: string
  args: string[]
  cwd: string
  uid?: number
  gid?: number
}

/** A command and all of its children have ended: its exit code (null: by a signal) and the end of what it printed. */
export interface Ended {
  ended: number | null
  output: string
}

/** Its process id as soon as there is one, and then the end. */
export type Report = { started: number } | Ended

const folderToRemove = process.argv[2]
let running: { child: ChildProcess; exit: Promise<void> } | undefined

// Only the end of the other process ends this one; nor should `killall node` take it for one of them.
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
  // 'close', not 'exit': the pipes close when the last process that inherited them is gone.
  child.once('close', (code) => {
    running = undefined
    report({ ended: code, output: output.trim() })
  })
})

async function leave(): Promise<void> {
  if (running) {
    running.child.kill('SIGINT')
    running.child.kill('SIGCONT')
    const impatience = setTimeout(() => running?.child.kill('SIGKILL'), 20_000)
    await running.exit
    clearTimeout(impatience)
  }
  if (folderToRemove) await rm(folderToRemove, { recursive: true, force: true, maxRetries: 20 })
  process.exit()
}

// The other process may have gone before this one was ready to hear of it.
if (process.connected) process.once('disconnect', leave)
else leave()

/** Nobody may be there to read it any more. */
function report(report: Report): void {
  if (process.connected) process.send?.(report, undefined, undefined, () => {})
}
