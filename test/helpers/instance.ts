// Starts instances of the store, in this process or in a child process.
import { type ConnectionSource, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { message, start } from './processes.js'
import type { Call, Outcome } from './programs/calls.js'

/** Returns a store that is set up and trusts its cache. */
export async function trusted(connection: ConnectionSource, options: PgStoreOptions = {}): Promise<PgStore> {
  const store = new PgStore(connection, options)
  const trust = new Promise<void>((resolve) => store.once('trust', resolve))
  await store.setup()
  await trust
  return store
}

/** A store in a child process. */
export class Instance implements Disposable {
  readonly #child

  constructor(url: string, options: PgStoreOptions = {}) {
    this.#child = start('./calls.js', [url, JSON.stringify(options)])
  }

  /** Makes calls at the same time, in one message, and returns the outcome of each. */
  async together(...calls: Call[]): Promise<Outcome[]> {
    const outcomes = message<Outcome[]>(this.#child)
    this.#child.send(calls)
    return outcomes
  }

  /** Makes a call; returns its value or throws its error. */
  async call(...call: Call): Promise<unknown> {
    const [outcome] = await this.together(call)
    if (outcome?.error !== undefined) throw new Error(outcome.error)
    return outcome?.value
  }

  [Symbol.dispose](): void {
    this.#child.kill()
  }
}
