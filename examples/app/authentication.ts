// Signs users in and out with koa-passport's local strategy.
import type { Context, Next } from 'koa'
import { KoaPassport } from 'koa-passport'
import { Strategy } from 'passport-local'
import { signInPage } from './pages/sign-in.js'
import { authenticate, type User, userOf } from './users.js'

export const passport = new KoaPassport()

passport.use(
  new Strategy({ usernameField: 'name' }, (name, password, done) =>
    done(null, authenticate(name, password) ?? false),
  ),
)
passport.serializeUser<string>((user, done) => done(null, (user as User).id))
passport.deserializeUser<string>((id, done) => done(null, userOf(id)))

/** Returns the user who is signed in. Only after `requireUser`. */
export function currentUser(ctx: Context): User {
  return ctx.state.user
}

/** Sends visitors who aren't signed in to the first page, where they can. */
export async function requireUser(ctx: Context, next: Next): Promise<void> {
  if (ctx.isAuthenticated()) return next()
  ctx.status = 303
  ctx.redirect('/')
}

export async function signIn(ctx: Context, next: Next): Promise<void> {
  await passport.authenticate('local', async (error: Error | null, user: User | false) => {
    if (error) throw error
    if (user === false) {
      const { name } = ctx.request.body as { name?: unknown }
      ctx.status = 422
      signInPage(ctx, typeof name === 'string' ? name : '', 'The name or the password is wrong.')
      return
    }
    // koa-session keeps the content of the session at sign-in; what belongs to another user must not stay.
    if (ctx.isAuthenticated() && currentUser(ctx).id !== user.id) ctx.session = {} as typeof ctx.session
    // Gives the session a new id, so that one planted before the sign-in (session fixation) is worth nothing.
    await ctx.login(user)
    ctx.status = 303
    ctx.redirect('/')
  })(ctx, next)
}

export async function signOut(ctx: Context): Promise<void> {
  ctx.session = null
  ctx.status = 303
  ctx.redirect('/')
}
