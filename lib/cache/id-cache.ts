// What sessions are called, by their ids lately used: hashing an id costs more than all else of a cached read.
import { nameOf, rawId } from '../session/session-id.js'
import { Recent } from './quick-lru.js'

export interface Names {
  /** In the cache and in notices. */
  readonly name: string
  /** In the table; `undefined` if the table can't have it. */
  readonly id: string | undefined
  /** When it was last loaded here, by the monotonic clock. */
  loaded: number | undefined
}

/** No session id of the middlewares is longer, and what a stranger sends must not fill the memory. */
const longest = 128

export class RecentNames {
  readonly #names: Recent<Names>
  readonly #hashIds: boolean

  /** Remembers those of about `max` sessions. */
  constructor(max: number, hashIds: boolean) {
    this.#names = new Recent(max)
    this.#hashIds = hashIds
  }

  of(sid: string): Names {
    const known = this.#names.get(sid)
    if (known !== undefined) return known
    const name = nameOf(sid)
    const names = { name, id: this.#hashIds ? `sha256:${name}` : rawId(sid), loaded: undefined }
    if (sid.length <= longest) this.#names.set(sid, names)
    return names
  }
}
