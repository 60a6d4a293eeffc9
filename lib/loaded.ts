// What a session that was handed out carries, unseen: the text and the version that it came from.

/** What a session was when it was loaded, or last saved. */
export interface Base {
  /** The store that it was loaded from, or saved by: another's knows nothing of its versions. */
  readonly store: object
  /** The session's name, so that an object which is saved under another id isn't taken for the other's. */
  readonly name: string
  readonly text: string
  readonly version: number
  /** What the table has in this version, where others' changes were merged into it: the object lacks them. */
  readonly merged?: string
}

class Given {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: so that a subclass puts its private field into this object.
    return object
  }
}

/**
 * An object with a private field that it knows nothing of: nothing that copies, prints or compares it sees that. The
 * copy that a get answers takes half the time that it would with a WeakMap (bench/copy.ts).
 */
class Loaded extends Given {
  #base: Base

  private constructor(session: object, base: Base) {
    super(session)
    this.#base = base
  }

  static base(session: object): Base | undefined {
    return #base in session ? session.#base : undefined
  }

  static remember(session: object, base: Base): void {
    if (#base in session) session.#base = base
    else if (Object.isExtensible(session)) new Loaded(session, base)
  }
}

/** What this store's session under this name was, as far as this object, or koa-session's context, knows. */
export function baseOf(carrier: object, store: object, name: string): Base | undefined {
  const base = Loaded.base(carrier)
  return base?.name === name && base.store === store ? base : undefined
}

export const remember = Loaded.remember
