// SQL to commit a change without waiting for the disk, and to flush the write-ahead log afterwards.

/**
 * Makes the commit of this transaction asynchronous, and returns whether it has to be flushed afterwards: not if the
 * connection commits asynchronously anyway. For transactions that notify: PostgreSQL holds a lock of the whole cluster from
 * NOTIFY until the commit is complete, so a commit that waits for disk or standby makes all others wait. The second setting
 * is for `flushIfAskedSql`.
 */
export const asyncCommitSql =
  `case when current_setting('synchronous_commit') <> 'off' then` +
  ` set_config('synchronous_commit', 'off', true) || set_config('koa_pg_store.flush', 'on', false) is not null else false end`

/**
 * Commits a record of a few bytes in the way that the connection asks for, and with it everything in the log before it:
 * the log is one sequence. Any role may call the function.
 */
export const flushSql =
  // Not a plain select: that would be sent again over another connection if this one were lost, which may be after a crash.
  `with message as (select pg_logical_emit_message(true, 'koa-pg-store', '') as lsn) select lsn is not null as flushed from message`

/** The same, if the statement before it on this connection had to be flushed. Returns whether it did. */
export const flushIfAskedSql =
  `select case when current_setting('koa_pg_store.flush', true) = 'on' then` +
  ` pg_logical_emit_message(true, 'koa-pg-store', '') is not null and set_config('koa_pg_store.flush', 'off', false) is not null` +
  ` else false end as flushed`
