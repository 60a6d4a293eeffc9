// What sessions are called, by their ids lately used: hashing an id costs more than all else of a cached read.
import { digestOf, rawId } from '../session/session-id.js'
import { QuickLru } from './quick-lru.js'

export interface SessionIds {
  /** In the cache and in notices. */
  readonly digest: string
  /** In the table; `undefined` if the table can't have it. */
  readonly storedId: string | undefined
  /** When it was last loaded here, by the monotonic clock. */
  loadedAt: number | undefined
}

/** No session id of the middlewares is longer, and what a stranger sends must not fill the memory. */
const maxCachedIdLength = 128

export class IdCache {
  readonly #ids: QuickLru<SessionIds>
  readonly #hashIds: boolean

  /** Remembers those of about `max` sessions. */
  constructor(max: number, hashIds: boolean) {
    this.#ids = new QuickLru(max)
    this.#hashIds = hashIds
  }

  resolve(sid: string): SessionIds {
    const known = this.#ids.get(sid)
    if (known !== undefined) return known
    const digest = digestOf(sid)
    const ids = { digest, storedId: this.#hashIds ? `sha256:${digest}` : rawId(sid), loadedAt: undefined }
    if (sid.length <= maxCachedIdLength) this.#ids.set(sid, ids)
    return ids
  }
}
