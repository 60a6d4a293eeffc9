// Caches the digests of recently used session ids: computing one costs more than the rest of a cached read.
import { assertSessionId, digestOf, rawId } from '../session/session-id.js'
import type { CacheLink } from './local-cache.js'
import { QuickLru } from './quick-lru.js'

/** `digest`: SHA-256 of the session id, its key in the cache and in notifications. */
export interface SessionIds extends CacheLink {
  /** What the table holds; `undefined` if the table can't hold it. */
  readonly storedId: string | undefined
  /** When this process last returned the session, by the monotonic clock. */
  loadedAt: number | undefined
}

/** The middlewares' session ids are shorter. A longer one comes from a stranger and isn't worth the memory. */
const maxCachedIdLength = 128

export class IdCache {
  readonly #ids: QuickLru<SessionIds>
  readonly #hashIds: boolean

  /** Remembers at least `max` session ids, and at most twice as many. */
  constructor(max: number, hashIds: boolean) {
    this.#ids = new QuickLru(max)
    this.#hashIds = hashIds
  }

  /** Throws a `TypeError` for what can't be a session id. */
  resolve(sid: string): SessionIds {
    const cached = this.#ids.get(sid)
    if (cached !== undefined) return cached
    assertSessionId(sid)
    const digest = digestOf(sid)
    const storedId = this.#hashIds ? `sha256:${digest}` : rawId(sid)
    const ids = { digest, storedId, loadedAt: undefined, entry: undefined }
    if (sid.length <= maxCachedIdLength) this.#ids.set(sid, ids)
    return ids
  }
}
