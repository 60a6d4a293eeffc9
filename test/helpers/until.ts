// Waits for a condition by polling.
import { setTimeout as sleep } from 'node:timers/promises'

/** Waits until a condition holds. The default timeout is long enough for a busy machine. */
export async function until(isTrue: () => boolean | Promise<boolean>, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error(`not true within ${timeoutMs} ms: ${isTrue}`)
    await sleep(20)
  }
}
