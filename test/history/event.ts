// The events of a history.

/** A call of one process, and its outcome. Times are in ms, of the machine's monotonic clock. */
export interface Event {
  process: number
  /** `write` and `destroy` through the store; `outside` the same directly in SQL. */
  kind: 'read' | 'write' | 'touch' | 'destroy' | 'outside write' | 'outside delete'
  key: string
  start: number
  /** When it was acknowledged; `Infinity` if it failed, and may or may not have taken effect. */
  end: number
  /** The number that was written or read; each write has a different one. `null`: no session was found. */
  value?: number | null
}

export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
