// Turns errors into pages. While the database is away, a request fails with 503; it is never taken for one without a session.
import Koa, { type Context, type Next } from 'koa'
import { DatabaseError, SetupError } from 'koa-pg-store'
import { outagePage, problemPage } from './pages/problem.js'

export async function explainProblems(ctx: Context, next: Next): Promise<void> {
  try {
    await next()
    if (ctx.status === 404 && ctx.body === undefined) showProblem(ctx, 404, 'There is no such page')
  } catch (error) {
    if (error instanceof DatabaseError || error instanceof SetupError) {
      console.error(error.message)
      ctx.status = error.status
      ctx.set(error.headers)
      outagePage(ctx)
    } else if (error instanceof Koa.HttpError && error.expose) showProblem(ctx, error.status, error.message)
    else {
      ctx.app.emit('error', error, ctx)
      showProblem(ctx, 500, 'Something went wrong', 'It is not your fault, and it has been noted.')
    }
  }
}

function showProblem(ctx: Context, status: number, title: string, explanation = ''): void {
  ctx.status = status
  problemPage(ctx, title, explanation)
}
