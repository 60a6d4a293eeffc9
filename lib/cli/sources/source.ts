// The interface of the sources that `import` reads, and the names of their formats.

/** A session as it was read, before its text is parsed. */
export interface SourceRow {
  /** Its key in the source, or the number of its line. */
  readonly key: string
  /** Its JSON. */
  readonly text: string
  /** How long it may still live, in ms, by the source's clock; `undefined` if the source doesn't say. */
  readonly ttlMs: number | undefined
}

export interface Source {
  /** Yields sessions in batches, each with the share of the source, from 0 to 1, that was read with it. */
  read(): AsyncGenerator<{ rows: SourceRow[]; done: number }>
  /** Deletes sessions by their keys; `undefined` if the source can't. */
  readonly remove: ((keys: readonly string[]) => Promise<void>) | undefined
  end(): Promise<void>
}

/** What reads like koa-redis is named so, and what has other keys or another form of JSON has a name of its own. */
export type Format = 'koa-redis' | 'connect-redis' | 'connect-pg-simple' | 'keyv' | 'jsonl'

/** How many sessions are read and written at a time. */
export const sourceBatchSize = 500
