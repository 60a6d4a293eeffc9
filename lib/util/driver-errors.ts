// Messages and codes of driver errors, and copies of them without ids and sessions.
const keptFields = ['code', 'severity', 'hint', 'schema', 'table', 'column', 'constraint', 'routine'] as const

/** What is shorter may stand in any message, and protects nobody. */
const minSecretLength = 8

/**
 * A copy of a driver's error without what may hold ids or sessions: PostgreSQL's `detail` and `where` quote values, and
 * other drivers hang statement and parameters on their errors.
 */
export function redact(error: unknown, secrets: readonly string[] = []): Error {
  let message = messageOf(error)
  for (const secret of secrets) {
    if (secret.length < minSecretLength) continue
    // As it is, and as it stands inside JSON.
    for (const form of [secret, JSON.stringify(secret).slice(1, -1)]) message = message.replaceAll(form, '…')
  }
  const copy = new Error(message)
  if (!(error instanceof Error)) return copy
  copy.name = error.name
  const frames = error.stack?.split('\n').filter((line) => /^\s+at /.test(line))
  if (frames?.length) copy.stack = [`${copy.name}: ${message}`, ...frames].join('\n')
  for (const key of keptFields) {
    const value: unknown = Reflect.get(error, key)
    if (typeof value === 'string') Object.defineProperty(copy, key, { value, enumerable: true })
  }
  return copy
}

/** What an error says; Node's AggregateError (a host with several addresses) itself says nothing. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0)
    return [...new Set(error.errors.map(messageOf))].join('; ')
  if (!(error instanceof Error)) return String(error)
  return error.message || codeOf(error) || error.name
}

/** The code of a driver's error: an SQLSTATE such as `42501`, or Node's, such as `ECONNREFUSED`. */
export function codeOf(error: unknown): string | undefined {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined
  return typeof code === 'string' ? code : undefined
}
