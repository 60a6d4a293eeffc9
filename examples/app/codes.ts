// A page that asks for the password again, although the user is signed in, and remembers that for a minute.
import type { Context } from 'koa'
import { currentUser } from './authentication.js'
import { codesPage, confirmPage } from './pages/codes.js'
import { confirmationMs, confirmedAt } from './session-keys.js'
import { authenticate } from './users.js'

export function showCodes(ctx: Context): void {
  const time = confirmedAt.get(ctx.session)
  if (time) codesPage(ctx, Date.parse(time) + confirmationMs - Date.now())
  else confirmPage(ctx)
}

export function confirmPassword(ctx: Context): void {
  const { password } = ctx.request.body as { password?: unknown }
  if (!ctx.session || !authenticate(currentUser(ctx).name, String(password ?? ''))) {
    ctx.status = 422
    confirmPage(ctx, 'The password is wrong.')
    return
  }
  confirmedAt.set(ctx.session, new Date().toISOString())
  backToCodes(ctx)
}

export function forgetConfirmation(ctx: Context): void {
  confirmedAt.delete(ctx.session)
  backToCodes(ctx)
}

function backToCodes(ctx: Context): void {
  ctx.status = 303
  ctx.redirect('/codes')
}
