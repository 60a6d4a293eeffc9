// What mocha runs around all tests.
import { stopServer } from './server.js'

export const mochaHooks = {
  async afterAll(): Promise<void> {
    await stopServer()
  },
}
