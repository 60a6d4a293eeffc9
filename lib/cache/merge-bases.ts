// Remembers, for each session object that a store returned, the version that it was loaded from.

/** A session as it was when it was loaded or last saved. */
export interface MergeBase {
  /** Names the session: an object that is saved under another id isn't compared with this one. */
  readonly digest: string
  readonly json: string
  readonly version: number
  /** What the table holds in this version, if that is more than `json`: changes of other requests were merged into it. */
  readonly mergedJson?: string
}

/** Each store has its own: versions of two stores can't be compared. */
export class MergeBases {
  /**
   * By owner: the returned object, or koa-session's context. A private field would be twice as fast where V8 has seen many
   * shapes of sessions and half as fast where it has seen one (bench/experiments/copy.ts); this costs the same everywhere.
   */
  readonly #bases = new WeakMap<object, MergeBase>()

  /** Returns the base that `owner` has of the session with this digest. */
  find(owner: object, digest: string): MergeBase | undefined {
    const base = this.#bases.get(owner)
    return base?.digest === digest ? base : undefined
  }

  remember(owner: object, base: MergeBase): void {
    this.#bases.set(owner, base)
  }
}
