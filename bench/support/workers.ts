// Starts and stops child processes, and exchanges messages with them.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** Starts a program of bench/workers/. */
export function startWorker(name: string, ...args: string[]): ChildProcess {
  return fork(fileURLToPath(new URL(`../workers/${name}.js`, import.meta.url)), args)
}

/** Resolves with the next message of a child process. Rejects if it exits first. */
export function nextMessage<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: unknown): void => {
      child.off('exit', onExit)
      resolve(message as T)
    }
    const onExit = (code: number | null): void => {
      child.off('message', onMessage)
      reject(new Error(`${child.spawnargs.slice(1).join(' ')} exited with ${code} before it sent a message`))
    }
    child.once('message', onMessage)
    child.once('exit', onExit)
  })
}

/** Disconnects a worker, and resolves when it has exited. */
export async function stopWorker(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit')
  child.disconnect()
  await exited
}

/** The time in ms, by a clock that all processes of this machine share. */
export function sharedNow(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
