// Finds violations of the store's guarantees in a history. Orders calls by real time alone: one call comes after another if
// it starts after the other's end.
import type { Event } from './event.js'

/** A violation, and the calls that show it. */
export interface Fault {
  what:
    | 'stale read'
    | 'own write not read'
    | 'non-monotonic read'
    | 'unknown value'
    | 'lost write'
    | 'out of order'
    | 'resurrected'
  events: Event[]
}

/** `maxStaleness`: how long, in ms after its acknowledgement, other processes may not see a change. */
export function check(events: Event[], maxStaleness: number): Fault[] {
  const faults: Fault[] = []
  for (const history of group(events, (event) => event.key).values()) {
    const changes = history.filter(({ kind }) => kind !== 'read' && kind !== 'touch')
    const writes = new Map(
      changes.filter(({ value }) => typeof value === 'number').map((event) => [event.value, event]),
    )
    const removals = changes.filter(({ kind }) => kind === 'destroy' || kind === 'outside delete')
    const reads = history.filter(({ kind, end }) => kind === 'read' && end < Infinity)
    for (const read of reads) {
      if (read.value === null || read.value === undefined) {
        const written = changes.find(({ kind, end }) => kind.endsWith('write') && end < read.start)
        if (written && !removals.some(({ start }) => start < read.end))
          faults.push({ what: 'lost write', events: [written, read] })
        continue
      }
      const write = writes.get(read.value)
      if (write === undefined || write.start > read.end)
        faults.push({ what: 'unknown value', events: [read] })
      else {
        // A process sees its own changes at once, and those of other processes within maxStaleness.
        const later = changes.filter(({ start }) => start > write.end)
        const own = later.find(
          ({ process, kind, end }) =>
            process === read.process && !kind.startsWith('outside') && end < read.start,
        )
        const other = later.find(({ end }) => end + maxStaleness < read.start)
        if (own) faults.push({ what: 'own write not read', events: [write, own, read] })
        else if (other) faults.push({ what: 'stale read', events: [write, other, read] })
      }
    }
    for (const own of group(reads, (event) => event.process).values())
      faults.push(...findNonMonotonic(own, writes))
  }
  return faults
}

/** Finds reads of one process that return an older value than an earlier read did. */
function findNonMonotonic(reads: Event[], writes: Map<Event['value'], Event>): Fault[] {
  const faults: Fault[] = []
  const byStart = reads.filter(({ value }) => typeof value === 'number').sort((a, b) => a.start - b.start)
  // `newest` is the value with the latest write among the reads that have ended before `read` starts.
  const byEnd = [...byStart].sort((a, b) => a.end - b.end)
  let newest: { read: Event; write: Event } | undefined
  let next = 0
  for (const read of byStart) {
    for (
      let earlier = byEnd[next];
      earlier !== undefined && earlier.end < read.start;
      earlier = byEnd[++next]
    ) {
      const write = writes.get(earlier.value)
      if (write && (newest === undefined || write.start > newest.write.start))
        newest = { read: earlier, write }
    }
    const write = writes.get(read.value)
    if (write && newest && write.end < newest.write.start)
      faults.push({ what: 'non-monotonic read', events: [write, newest.write, newest.read, read] })
  }
  return faults
}

export function group<T, K>(items: T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const list = groups.get(key(item))
    if (list) list.push(item)
    else groups.set(key(item), [item])
  }
  return groups
}
