// What every peer implements, so that all are measured in the same way.

export const operations = ['get', 'set', 'create', 'touch'] as const
export type Operation = (typeof operations)[number]

export type PeerKind = 'koa-pg-store' | 'postgres' | 'redis' | 'memory' | 'by hand'

export interface Adapter {
  readonly get: (sid: string) => PromiseLike<unknown> | unknown
  readonly set: (sid: string, session: object) => PromiseLike<unknown> | unknown
  readonly create: (session: object) => PromiseLike<unknown> | unknown
  /** Absent where the peer has none. */
  readonly touch?: (sid: string, session: object) => PromiseLike<unknown> | unknown
  /** Needed only by bench/experiments/lost-updates.ts. */
  readonly destroy?: (sid: string) => PromiseLike<unknown> | unknown
  /** Resolves with the number of cache hits, to check that a cached peer really reads from memory. */
  readonly hits?: () => Promise<number>
  /** Called once the sessions exist. */
  readonly begin?: (ids: readonly string[]) => Promise<void>
  /** Deletes the sessions that `create` made, where they would fill the memory of this process or of Redis. */
  readonly deleteCreated?: () => Promise<void>
  readonly close: () => Promise<unknown>
}

export interface Peer extends Adapter {
  readonly name: string
  readonly kind: PeerKind
  /** The process id of its server; 0 if it has none. */
  readonly serverPid: number
}
