// The processor time that a server's processes have used, read from Linux's /proc.
import { readdirSync, readFileSync } from 'node:fs'

/** Returns the processor time of a process so far, in ms; 0 if it has exited. */
export function processorTime(pid: number): number {
  const [ns = '0'] = read(`/proc/${pid}/schedstat`).split(' ')
  return Number(ns) / 1e6
}

/** The processor time of each process of a server so far, in ms, by process id. */
type ServerTimes = ReadonlyMap<number, number>

/** Returns those of PostgreSQL's postmaster and its children, or of Redis; none without a process (0). */
export function serverTimes(postmaster: number): ServerTimes {
  if (postmaster === 0) return new Map()
  const children = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && parentOf(name) === postmaster)
  return new Map([postmaster, ...children.map(Number)].map((pid) => [pid, processorTime(pid)]))
}

/** Returns what a server has used since then. What processes used that have ended meanwhile isn't known. */
export function serverTimeSince(before: ServerTimes, postmaster: number): number {
  let sum = 0
  for (const [pid, ms] of serverTimes(postmaster)) sum += ms - (before.get(pid) ?? 0)
  return sum
}

function parentOf(pid: string): number {
  const stat = read(`/proc/${pid}/stat`)
  // The name of the program, in parentheses, may contain spaces.
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
