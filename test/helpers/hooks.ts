// Mocha's root hooks: stop the shared PostgreSQL server after all tests.
import { stopServer } from './server.js'

export const mochaHooks = {
  async afterAll(): Promise<void> {
    await stopServer()
  },
}
