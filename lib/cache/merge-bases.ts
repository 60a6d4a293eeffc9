// What a session that was handed out carries, unseen: the text and the version that it came from.

/** What a session was when it was loaded, or last saved. */
export interface MergeBase {
  /** The session's name, so that an object which is saved under another id isn't taken for the other's. */
  readonly digest: string
  readonly json: string
  readonly version: number
  /** What the table has in this version, where others' changes were merged into it: the object lacks them. */
  readonly mergedJson?: string
}

/** Each store has its own: it knows nothing of another's versions. */
export class MergeBases {
  /**
   * By the object that was handed out, or koa-session's context. A private field is half as dear where V8 has seen many
   * shapes of sessions (bench/experiments/copy.ts), and twice as dear where it has seen one: this costs the same everywhere.
   */
  readonly #bases = new WeakMap<object, MergeBase>()

  /** What the session under this name was, as far as this object, or koa-session's context, knows. */
  find(carrier: object, name: string): MergeBase | undefined {
    const base = this.#bases.get(carrier)
    return base?.digest === name ? base : undefined
  }

  remember(carrier: object, base: MergeBase): void {
    this.#bases.set(carrier, base)
  }
}
