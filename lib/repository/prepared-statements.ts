// Names the statements of a request's path, so that each connection prepares them once.
import { hash } from 'node:crypto'
import type { Statement } from '../postgres/connection.js'
import { flushIfAskedSql, flushSql } from './flush-sql.js'
import type { SessionStatements } from './session-statements.js'

export type PreparedStatements = ReturnType<typeof prepareAll>

export function prepareAll(statements: SessionStatements) {
  return {
    readOne: prepared(statements.readOne),
    readMany: prepared(statements.readMany),
    writeOne: prepared(statements.writeOne),
    writeMany: prepared(statements.writeMany),
    replaceOne: prepared(statements.replaceOne),
    replaceMany: prepared(statements.replaceMany),
    destroyOne: prepared(statements.destroyOne),
    destroyMany: prepared(statements.destroyMany),
    destroyOf: prepared(statements.destroyOf),
    evict: prepared(statements.evict),
    touch: prepared(statements.touch),
    touchUnlocked: prepared(statements.touchUnlocked),
    hashRawId: prepared(statements.hashRawId),
    flush: prepared(flushSql),
    flushIfAsked: prepared(flushIfAskedSql),
    lockUser: prepared(`select pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1 || ' ' || $2))`),
  }
}

/** The same text has the same name: stores that share a connection share its prepared statements. */
function prepared(text: string): Statement {
  return { text, name: `koa_pg_store_${hash('sha256', text).slice(0, 16)}` }
}
