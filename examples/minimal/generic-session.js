// The smallest application with koa-generic-session: counts a visitor's requests. DATABASE_URL and SECRET are in the environment.
import Koa from 'koa'
import session from 'koa-generic-session'
import { PgStore } from 'koa-pg-store'

const store = new PgStore(process.env.DATABASE_URL)
store.on('warning', (error) => console.error(error.message))

const app = new Koa()
app.keys = [process.env.SECRET]
app.use(session({ store }))
app.use((ctx) => {
  ctx.session.visits = (ctx.session.visits ?? 0) + 1
  ctx.body = `Visit ${ctx.session.visits}`
})

const server = app.listen(process.env.PORT ?? 3000, () => console.log(`Port ${server.address().port}`))
// Finishes the requests in progress, so that their sessions are saved.
process.once('SIGTERM', () => server.close(() => store.close()))
