// Mocha's root hooks: stop the shared PostgreSQL server after all tests.
import { stopServer } from './server.js'

export const mochaHooks = {
  async afterAll(this: Mocha.Context): Promise<void> {
    // Removes the files of a thousand databases.
    this.timeout(300_000)
    await stopServer()
  },
}
