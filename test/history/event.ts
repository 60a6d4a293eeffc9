// What a history is made of.

/** A call that some process made, and what came of it. Times are of the machine's monotonic clock, in ms. */
export interface Event {
  process: number
  /** `write` and `end` by the store, `outside` the same in SQL past it. */
  kind: 'read' | 'write' | 'touch' | 'end' | 'outside write' | 'outside end'
  key: string
  start: number
  /** When it was acknowledged; `Infinity` if it failed, and may have happened or not. */
  end: number
  /** What was written, or read: each write has a number of its own. `null`: nothing was there. */
  value?: number | null
}

export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
