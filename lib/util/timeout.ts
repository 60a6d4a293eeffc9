// A time limit for a promise.

/**
 * Resolves with the promise's value, or rejects after `ms` with an error that begins with `description`. With `ref: false`
 * the timer doesn't keep the process running.
 */
export async function withTimeout<T>(
  promise: PromiseLike<T>,
  ms: number,
  description: string,
  ref = true,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${description} within ${ms} ms`)), ms)
    if (!ref) timer.unref()
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}
