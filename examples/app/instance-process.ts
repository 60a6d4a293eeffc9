// An instance of the application in a process of its own, as start.ts sees it.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { InstanceMessage, StartMessage } from './instance.js'

export interface InstanceProcess {
  readonly port: number
  readonly pid: number | undefined
  readonly hasEnded: boolean
  /** Resolves with how it ended. */
  readonly ended: Promise<string>
  onStopDatabase: (seconds: number) => void
  tell(message: StartMessage): void
  /** Lets it finish its requests, and resolves when it has ended. */
  stop(): Promise<void>
}

export interface InstanceOptions {
  readonly env: Record<string, string | undefined>
  /** 0: any free one. */
  readonly port: number
  /** Whether it takes another port if this one is in use. */
  readonly mayChooseAnother: boolean
}

const program = fileURLToPath(new URL('./instance.js', import.meta.url))
const stopTimeoutMs = 15_000

/** Resolves when the instance listens. */
export async function startInstance(options: InstanceOptions): Promise<InstanceProcess> {
  const { env, port, mayChooseAnother } = options
  const child = fork(program, { env: { ...process.env, ...env, PORT: String(port) } })
  const ended = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `exit status ${code}`))
    child.on('error', (error) => resolve(error.message))
  })
  const first = await Promise.race([
    once(child, 'message').then(([message]) => message as InstanceMessage),
    ended,
  ])
  if (typeof first === 'string') throw new Error(`An instance didn't start: ${first}`)
  if ('cannotListen' in first) {
    if (!mayChooseAnother || first.code !== 'EADDRINUSE')
      throw new Error(`Can't listen on port ${port}: ${first.cannotListen}. Set PORT to another.`)
    console.log(`Port ${port} is taken, so it is another one. Set PORT to choose it.`)
    return startInstance({ ...options, port: 0 })
  }
  if (!('listening' in first)) throw new Error(`An instance sent ${JSON.stringify(first)}`)

  const instance = {
    port: first.listening,
    pid: child.pid,
    hasEnded: false,
    ended,
    onStopDatabase: (_seconds: number) => {},
    tell(message: StartMessage) {
      if (child.connected) child.send(message)
    },
    async stop() {
      if (child.connected) child.disconnect()
      const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs)
      await ended
      clearTimeout(timer)
    },
  }
  child.on('message', (message: InstanceMessage) => {
    if ('stopDatabase' in message) instance.onStopDatabase(message.stopDatabase)
  })
  ended.then(() => {
    instance.hasEnded = true
  })
  return instance
}
