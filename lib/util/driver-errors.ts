// Reads the messages and codes of driver errors, and copies errors without the ids and sessions in them.

/** Fields of an error that never hold a value of the table. */
const safeFields = ['code', 'severity', 'hint', 'schema', 'table', 'column', 'constraint', 'routine'] as const

/** A shorter string could be part of any message, and is too short for a secret. */
const minSecretLength = 8

/**
 * Returns a copy of a driver's error without `secrets`, and without fields that may hold ids or sessions: PostgreSQL's
 * `detail` and `where` quote values, and some drivers add the statement and its parameters.
 */
export function redact(error: unknown, secrets: readonly string[] = []): Error {
  let message = messageOf(error)
  for (const secret of secrets) {
    if (secret.length < minSecretLength) continue
    // As it is, and as it is escaped inside JSON.
    for (const form of [secret, JSON.stringify(secret).slice(1, -1)]) message = message.replaceAll(form, '…')
  }
  const copy = new Error(message)
  if (!(error instanceof Error)) return copy
  copy.name = error.name
  const frames = error.stack?.split('\n').filter((line) => /^\s+at /.test(line))
  if (frames?.length) copy.stack = [`${copy.name}: ${message}`, ...frames].join('\n')
  for (const key of safeFields) {
    const value: unknown = Reflect.get(error, key)
    if (typeof value === 'string') Object.defineProperty(copy, key, { value, enumerable: true })
  }
  return copy
}

const untrusted =
  "the server's certificate isn't signed by a known authority. Name its CA: sslrootcert=/path/to/ca.pem in the connection" +
  " string, or ssl: { ca: readFileSync('ca.pem', 'utf8') } in a configuration"

/** What to do about errors of TLS, whose messages don't say. */
const tlsAdvice: Record<string, string> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: untrusted,
  SELF_SIGNED_CERT_IN_CHAIN: untrusted,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: untrusted,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: untrusted,
  CERT_HAS_EXPIRED: "the server's certificate has expired: renew it",
  ERR_TLS_CERT_ALTNAME_INVALID:
    "connect to a host that the server's certificate names, or set ssl: { ca, servername }",
}

/** What to say of a connection that leads to a server which must not be used. */
export function wrongServer(what: string): string {
  return `the connection leads to ${what}: check which server the host name or the pooler leads to`
}

/**
 * Returns an error's message, with what to do about errors of TLS. Node's AggregateError, of a host with several addresses,
 * has none of its own.
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0)
    return [...new Set(error.errors.map(messageOf))].join('; ')
  if (error === undefined) return 'the connection was closed'
  if (!(error instanceof Error)) return String(error)
  const code = codeOf(error) ?? ''
  const message = error.message || code || error.name
  if (message.includes('"koa_pg_store.standby"'))
    return wrongServer('a standby, which may lack the latest changes')
  const advice = Object.hasOwn(tlsAdvice, code) ? tlsAdvice[code] : undefined
  return advice === undefined || message.includes(advice) ? message : `${message}: ${advice}`
}

/** Returns the code of a driver's error: an SQLSTATE such as `42501`, or one of Node's such as `ECONNREFUSED`. */
export function codeOf(error: unknown): string | undefined {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined
  return typeof code === 'string' ? code : undefined
}
