// Other instances: Node processes of their own.
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** Starts a compiled file of programs/ as a process that speaks by messages. */
export function start(file: string, args: string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const path = fileURLToPath(new URL(file, new URL('./programs/', import.meta.url)))
  return fork(path, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
}

/** The next message of a process; rejects if it ends instead. */
export function message<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (text: unknown): void => {
      child.off('exit', onExit)
      resolve(text as T)
    }
    const onExit = (code: number | null, signal: string | null): void => {
      child.off('message', onMessage)
      reject(new Error(`the process ended with ${code ?? signal} and said nothing`))
    }
    child.once('message', onMessage)
    child.once('exit', onExit)
  })
}
