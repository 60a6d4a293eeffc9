// The processor time that PostgreSQL's processes have used, read from Linux's /proc.
import { readdirSync, readFileSync } from 'node:fs'

/** Returns the processor time of a process so far, in ms; 0 if it has exited. */
export function processorTime(pid: number): number {
  const [ns = '0'] = read(`/proc/${pid}/schedstat`).split(' ')
  return Number(ns) / 1e6
}

/** Returns that of a PostgreSQL server's processes: the postmaster and its children. */
export function serverTime(postmaster: number): number {
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
