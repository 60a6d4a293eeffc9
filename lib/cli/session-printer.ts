// Prints a list of sessions: as JSON, as fields with tabs between them, or as a table that fits the window.
import { bytes, duration, padEnd, type Terminal, truncate } from './terminal.js'

/** A session as it is printed: without its id and its content. */
export interface ListedSession {
  readonly handle: string
  readonly userId: string | null
  readonly createdAt: string | null
  readonly lastAccessedAt: string | null
  readonly expiresInMs: number
  readonly bytes: number
}

/** Column widths. The user's column takes what is left of the window. */
const handleWidth = 43
const timeWidth = 12
const sizeWidth = 8
const gapsWidth = 5 * 2
const minUserWidth = 8
const maxUserWidth = 36

/** Returns a function that prints one session. */
export function sessionPrinter(terminal: Terminal, isJson: boolean): (session: ListedSession) => void {
  if (isJson) return (session) => terminal.json(session)
  if (!terminal.isTerminal) return (session) => terminal.line(tabSeparated(session))
  const userWidth = Math.min(
    maxUserWidth,
    terminal.width - handleWidth - 3 * timeWidth - sizeWidth - gapsWidth,
  )
  return userWidth >= minUserWidth
    ? tablePrinter(terminal, userWidth)
    : (session) => printInTwoLines(terminal, session)
}

function tabSeparated(session: ListedSession): string {
  const { handle, userId, createdAt, lastAccessedAt, expiresInMs } = session
  return [handle, printable(userId), createdAt ?? '', lastAccessedAt ?? '', expiresInMs, session.bytes].join(
    '\t',
  )
}

function tablePrinter(terminal: Terminal, userWidth: number): (session: ListedSession) => void {
  const line = (handle: string, user: string, times: string[], size: string): string =>
    [
      handle.padEnd(handleWidth),
      padEnd(truncate(user, userWidth), userWidth),
      ...times.map((time) => time.padEnd(timeWidth)),
      size.padStart(sizeWidth),
    ].join('  ')
  const heading = line('handle', 'user', ['created', 'last used', 'expires'], 'size')
  terminal.line(terminal.style('bold', heading))
  return (session) => {
    const times = [
      ago(session.createdAt),
      ago(session.lastAccessedAt),
      `in ${largestUnit(session.expiresInMs)}`,
    ]
    terminal.line(line(session.handle, printable(session.userId), times, bytes(session.bytes)))
  }
}

/** For a narrow window. The handle has a line of its own, so that it can be copied whole. */
function printInTwoLines(terminal: Terminal, session: ListedSession): void {
  const lastUsed = ago(session.lastAccessedAt)
  const details = [
    lastUsed && `used ${lastUsed}`,
    `expires in ${largestUnit(session.expiresInMs)}`,
    bytes(session.bytes),
  ]
    .filter(Boolean)
    .join(' · ')
  const userWidth = Math.max(minUserWidth, terminal.width - details.length - 5)
  const user = truncate(printable(session.userId), userWidth)
  terminal.line(terminal.style('bold', session.handle))
  terminal.line(`  ${truncate(user === '' ? details : `${user} · ${details}`, terminal.width - 2)}`)
}

function ago(time: string | null): string {
  return time === null ? '' : `${largestUnit(Math.max(0, Date.now() - Date.parse(time)))} ago`
}

/** A duration in its largest unit only, such as "3 h". */
function largestUnit(ms: number): string {
  return duration(ms).split(' ', 2).join(' ')
}

/** Replaces control characters: a user id could contain a tab, or a terminal's escape sequence. */
function printable(userId: string | null): string {
  return (userId ?? '').replaceAll(/\p{C}/gu, '\ufffd')
}
