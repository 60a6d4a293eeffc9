// The processor time that a server's processes have used, read from Linux's /proc.
import { readdirSync, readFileSync } from 'node:fs'

/** Returns the processor time of a process so far, in ms; 0 if it has exited. */
export function processorTime(pid: number): number {
  const [ns = '0'] = read(`/proc/${pid}/schedstat`).split(' ')
  return Number(ns) / 1e6
}

/** Returns that of a server: of PostgreSQL's postmaster and its children, or of Redis; 0 without a process. */
export function serverTime(postmaster: number): number {
  if (postmaster === 0) return 0
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && parentOf(name) === postmaster)
  return [postmaster, ...pids.map(Number)].reduce((sum, pid) => sum + processorTime(pid), 0)
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
