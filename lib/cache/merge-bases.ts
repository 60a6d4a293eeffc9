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

/** Returns the object that it is given, so that a subclass adds its private field to that. */
class Identity {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: See above.
    return object
  }
}

/** Each store has a private field of its own: versions of two stores can't be compared. */
function createField() {
  return class Field extends Identity {
    #base: MergeBase

    constructor(owner: object, base: MergeBase) {
      super(owner)
      this.#base = base
    }

    static get(owner: object): MergeBase | undefined {
      return #base in owner ? owner.#base : undefined
    }

    /** Returns whether that can be done. */
    static set(owner: object, base: MergeBase): boolean {
      if (#base in owner) owner.#base = base
      else if (Object.isExtensible(owner)) new Field(owner, base)
      else return false
      return true
    }
  }
}

/**
 * By owner: the returned object, or koa-session's context. In a private field of that object, which no code and no copy of it
 * sees: a `WeakMap` costs more than the rest of a cached read (bench/experiments/copy.ts).
 */
export class MergeBases {
  readonly #field = createField()
  /** Of objects that can't be given a field. */
  readonly #others = new WeakMap<object, MergeBase>()

  /** Returns the base that `owner` has of the session with this digest. */
  find(owner: object, digest: string): MergeBase | undefined {
    const base = this.#field.get(owner) ?? (Object.isExtensible(owner) ? undefined : this.#others.get(owner))
    return base?.digest === digest ? base : undefined
  }

  remember(owner: object, base: MergeBase): void {
    if (!this.#field.set(owner, base)) this.#others.set(owner, base)
  }
}
