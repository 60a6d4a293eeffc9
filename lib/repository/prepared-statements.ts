// Names the statements of a request's path, so that each connection prepares them once.
import { hash } from 'node:crypto'
import type { Statement } from '../postgres/connection.js'
import { qualify } from '../postgres/qualify.js'
import type { Table } from '../schema/table.js'
import { CitusStatements } from './citus-statements.js'
import { flushIfAskedSql, flushSql } from './flush-sql.js'
import { SessionStatements, type StatementOptions } from './session-statements.js'

/**
 * Returns the statements that the table takes. `announces: false`: those that make changes without a notification, which the
 * server's queue has no room for.
 */
export function createStatements(
  table: Table,
  options: StatementOptions,
  channel: string,
  announces = true,
): SessionStatements | CitusStatements {
  return table.isDistributed
    ? new CitusStatements(table, options)
    : new SessionStatements(table, options, channel, announces)
}

export type PreparedStatements = ReturnType<typeof prepareAll>

export function prepareAll(statements: SessionStatements | CitusStatements) {
  return {
    readOne: prepared(statements.readOne),
    readMany: prepared(statements.readMany),
    writeOne: prepared(statements.writeOne),
    replaceOne: prepared(statements.replaceOne),
    replaceMany: prepared(statements.replaceMany),
    destroyOne: prepared(statements.destroyOne),
    destroyMany: prepared(statements.destroyMany),
    destroyOf: prepared(statements.destroyOf),
    touch: prepared(statements.touch),
    touchUnlocked: prepared(statements.touchUnlocked),
    ...(statements instanceof CitusStatements ? forCitus(statements) : forPostgres(statements)),
    flush: prepared(flushSql),
    flushIfAsked: prepared(flushIfAskedSql),
    lockUser: prepared(`select pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1 || ' ' || $2))`),
  }
}

/** What differs between a table of PostgreSQL's own and one that Citus has distributed. */
interface Differing {
  /** Takes joined values, or is made for a number of sessions and takes the values of each. */
  readonly writeMany: Statement | ((count: number) => Statement)
  readonly evict?: Statement
  readonly surplus?: Statement
}

function forPostgres(statements: SessionStatements): Differing {
  return {
    writeMany: prepared(statements.writeMany),
    evict: prepared(statements.evict),
  }
}

function forCitus(statements: CitusStatements): Differing {
  // Not prepared: each number of sessions has a text of its own, and Citus plans it at each execution anyway.
  const texts: string[] = []
  const writeMany = (count: number): Statement => {
    const text = texts[count] ?? qualify(statements.write(count))
    texts[count] = text
    return { text, name: '' }
  }
  return { writeMany, surplus: prepared(statements.surplus) }
}

/** The same text has the same name: stores that share a connection share its prepared statements. */
function prepared(statement: string): Statement {
  const text = qualify(statement)
  return { text, name: `koa_pg_store_${hash('sha256', text).slice(0, 16)}` }
}
