import { setTimeout as sleep } from 'node:timers/promises'

/** Waits for something to become true; gives up after what even a busy machine needs. */
export async function until(isTrue: () => boolean | Promise<boolean>, ms = 30_000): Promise<void> {
  const end = performance.now() + ms
  while (!(await isTrue())) {
    if (performance.now() > end) throw new Error(`it did not become true within ${ms} ms: ${isTrue}`)
    await sleep(20)
  }
}
