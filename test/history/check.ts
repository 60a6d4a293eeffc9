// Finds what a history has that the promises forbid. Judges by real time alone: one call came after another if it began
// after that one's end.
import type { Event } from './event.js'

/** A breach of a promise: what it is, and the calls that show it. */
export interface Fault {
  what:
    | 'stale'
    | 'own write not read'
    | 'went back'
    | 'out of nowhere'
    | 'lost'
    | 'out of order'
    | 'brought back'
  events: Event[]
}

/** `bound`: how long after its acknowledgement a change may go unnoticed by other processes. */
export function check(events: Event[], bound: number): Fault[] {
  const faults: Fault[] = []
  for (const history of group(events, (event) => event.key).values()) {
    const changes = history.filter(({ kind }) => kind !== 'read' && kind !== 'touch')
    const writes = new Map(
      changes.filter(({ value }) => typeof value === 'number').map((event) => [event.value, event]),
    )
    const ends = changes.filter(({ kind }) => kind === 'end' || kind === 'outside end')
    const reads = history.filter(({ kind, end }) => kind === 'read' && end < Infinity)
    for (const read of reads) {
      if (read.value === null || read.value === undefined) {
        const there = changes.find(({ kind, end }) => kind.endsWith('write') && end < read.start)
        if (there && !ends.some(({ start }) => start < read.end))
          faults.push({ what: 'lost', events: [there, read] })
        continue
      }
      const write = writes.get(read.value)
      if (write === undefined || write.start > read.end)
        faults.push({ what: 'out of nowhere', events: [read] })
      else {
        // What the process itself did by the store it knows at once; of others it hears.
        const later = changes.filter(({ start }) => start > write.end)
        const own = later.find(
          ({ process, kind, end }) =>
            process === read.process && !kind.startsWith('outside') && end < read.start,
        )
        const other = later.find(({ end }) => end + bound < read.start)
        if (own) faults.push({ what: 'own write not read', events: [write, own, read] })
        else if (other) faults.push({ what: 'stale', events: [write, other, read] })
      }
    }
    for (const own of group(reads, (event) => event.process).values()) faults.push(...goneBack(own, writes))
  }
  return faults
}

/** Reads of one process that know less than an earlier one did. */
function goneBack(reads: Event[], writes: Map<Event['value'], Event>): Fault[] {
  const faults: Fault[] = []
  const inOrder = reads.filter(({ value }) => typeof value === 'number').sort((a, b) => a.start - b.start)
  /** By the end of the read: the newest thing that was known by then, newest by the start of its write. */
  const byEnd = [...inOrder].sort((a, b) => a.end - b.end)
  let newest: { read: Event; write: Event } | undefined
  let next = 0
  for (const read of inOrder) {
    for (let seen = byEnd[next]; seen !== undefined && seen.end < read.start; seen = byEnd[++next]) {
      const write = writes.get(seen.value)
      if (write && (newest === undefined || write.start > newest.write.start)) newest = { read: seen, write }
    }
    const write = writes.get(read.value)
    if (write && newest && write.end < newest.write.start)
      faults.push({ what: 'went back', events: [write, newest.write, newest.read, read] })
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
