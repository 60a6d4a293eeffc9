// Reads again the cached sessions that others have changed (`propagate: 'update'`): many in one statement, one at a time.
import type { Cache, Stored } from './cache.js'

export class Rereads {
  readonly #cache: Cache
  readonly #readMany: (ids: string[]) => Promise<Map<string, Stored>>
  /** Names in the cache, and the ids that the table has for them. */
  #waiting = new Map<string, string>()
  #running = false

  constructor(cache: Cache, readMany: (ids: string[]) => Promise<Map<string, Stored>>) {
    this.#cache = cache
    this.#readMany = readMany
  }

  /** Soon, with all others that come until then. */
  add(name: string, id: string): void {
    this.#waiting.set(name, id)
    if (!this.#running) void this.#run()
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#waiting.size > 0) {
      // The notices of one commit come in several messages: let them all in.
      await new Promise((resolve) => setImmediate(resolve))
      const wanted = [...this.#waiting].map(([name, id]) => ({ id, fill: this.#cache.begin(name) }))
      this.#waiting = new Map()
      // Without an answer they are read when somebody asks for them.
      const found = await this.#readMany(wanted.map(({ id }) => id)).catch(() => new Map<string, Stored>())
      for (const { id, fill } of wanted) this.#cache.end(fill, found.get(id))
    }
    this.#running = false
  }
}
