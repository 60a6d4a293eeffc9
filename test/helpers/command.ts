// Runs bin/koa-pg-store.js as a child process.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const bin = fileURLToPath(new URL('../../../bin/koa-pg-store.js', import.meta.url))

export interface CommandResult {
  status: number | null
  out: string
  errors: string
}

export class Command {
  readonly child: ChildProcess
  out = ''
  errors = ''
  readonly ended: Promise<CommandResult>

  constructor(args: string[], env: NodeJS.ProcessEnv = {}, cwd?: string) {
    const { PATH, HOME } = process.env
    this.child = spawn(process.execPath, [bin, ...args], { cwd, env: { PATH, HOME, ...env } })
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.out += text
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    this.ended = once(this.child, 'close').then(([status]) => ({
      status: status as number | null,
      out: this.out,
      errors: this.errors,
    }))
  }
}

export const run = (url: string | undefined, ...args: string[]): Promise<CommandResult> =>
  new Command(args, url === undefined ? {} : { DATABASE_URL: url }).ended
