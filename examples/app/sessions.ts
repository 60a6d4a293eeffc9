// The card "Where you are signed in": lists the user's sessions, and ends one or all others.
import type { Context } from 'koa'
import type { PgStore } from 'koa-pg-store'
import { currentUser, signOut } from './authentication.js'
import { accountPage, type ListedSession, sessionList } from './pages/account.js'

export function sessionRoutes(store: PgStore) {
  async function sessionsOf(ctx: Context): Promise<ListedSession[]> {
    const sessions = await store.sessionsOf(currentUser(ctx).id)
    const current = store.handleOf(ctx)
    return sessions
      .map(({ handle, device, createdAt, lastAccessedAt }) => ({
        handle,
        device: String(device ?? 'An unknown browser'),
        createdAt,
        lastAccessedAt,
        isCurrent: handle === current,
      }))
      .sort((a, b) => Number(b.isCurrent) - Number(a.isCurrent))
  }

  return {
    async showAccount(ctx: Context): Promise<void> {
      accountPage(ctx, await sessionsOf(ctx))
    },

    /** Only the list, for a page that is open already. */
    async listSessions(ctx: Context): Promise<void> {
      ctx.type = 'html'
      ctx.body = String(sessionList(await sessionsOf(ctx)))
    },

    async signOutOne(ctx: Context): Promise<void> {
      // revoke() ends any session, so this must be one of the user's own.
      const session = (await sessionsOf(ctx)).find(({ handle }) => handle === ctx.params.handle)
      if (session?.isCurrent) return signOut(ctx)
      if (session) await store.revoke(session.handle)
      backToAccount(ctx)
    },

    async signOutOthers(ctx: Context): Promise<void> {
      await store.destroySessionsOf(currentUser(ctx).id, { except: ctx })
      backToAccount(ctx)
    },
  }
}

function backToAccount(ctx: Context): void {
  ctx.status = 303
  ctx.redirect('/')
}
