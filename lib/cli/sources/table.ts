// Reads the sessions of a table of connect-pg-simple or of keyv.
import type { Connection } from '../../postgres/connection.js'
import { qualifiedName } from '../../schema/table.js'
import { type Source, type SourceRow, sourceBatchSize } from './source.js'

interface TableFormat {
  readonly defaultTable: string
  readonly key: string
  readonly text: string
  /** SQL for the ms until a session expires, or null. */
  readonly ttlMs: string
}

export const tableFormats = {
  'connect-pg-simple': {
    defaultTable: 'session',
    key: 'sid',
    text: 'sess::text',
    // Cast with the connection's TimeZone, as connect-pg-simple does when it compares the column.
    ttlMs: 'extract(epoch from expire::timestamptz - now())::float8 * 1000',
  },
  keyv: { defaultTable: 'keyv', key: 'key', text: 'value', ttlMs: 'null::float8' },
} satisfies Record<string, TableFormat>

/** These statements may take longer than those of a request. */
const queryTimeoutMs = 60_000

export interface TableSourceOptions {
  readonly connection: Connection
  readonly format: keyof typeof tableFormats
  readonly schema: string
  readonly table: string | undefined
  readonly prefix: string
  /** Closes the connection, if it is the source's own. */
  end(): Promise<void>
}

export function openTable(options: TableSourceOptions): Source {
  const { connection, schema, end } = options
  const format: TableFormat = tableFormats[options.format]
  const name = qualifiedName({ schema, table: options.table ?? format.defaultTable })
  return {
    read: () => readRows(connection, format, name, options.prefix),
    async remove(keys) {
      await connection.query(
        `delete from ${name} where ${format.key} = any($1::text[])`,
        [keys],
        queryTimeoutMs,
      )
    },
    end,
  }
}

async function* readRows(
  connection: Connection,
  { key, text, ttlMs }: TableFormat,
  name: string,
  prefix: string,
): ReturnType<Source['read']> {
  const [counted] = await connection.query(
    `select count(*)::float8 as n from ${name} where starts_with(${key}, $1)`,
    [prefix],
    queryTimeoutMs,
  )
  const total = counted?.n as number
  const select =
    `select ${key} as key, ${text} as text, ${ttlMs} as ttl_ms from ${name}` +
    ` where ${key} > $1 and starts_with(${key}, $2) order by ${key} limit ${sourceBatchSize}`
  let read = 0
  for (let lastKey = ''; ; ) {
    const found = await connection.query(select, [lastKey, prefix], queryTimeoutMs)
    const rows: SourceRow[] = found.map((row) => ({
      key: row.key as string,
      text: String(row.text),
      ttlMs: (row.ttl_ms as number | null) ?? undefined,
    }))
    const last = rows.at(-1)
    if (last === undefined) return
    lastKey = last.key
    read += rows.length
    yield { rows, done: Math.min(1, read / Math.max(1, total)) }
  }
}
