// Time limits for promises.

/** The code of its errors. */
export const timeoutCode = 'ERR_TIMEOUT'

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
    timer = setTimeout(() => {
      const error = new Error(`${description} within ${Math.round(ms)} ms`)
      reject(Object.assign(error, { code: timeoutCode }))
    }, ms)
    if (!ref) timer.unref()
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** Resolves with the values of the promises or, for those that take longer than `ms`, with the promises themselves. */
export async function settledWithin<T>(
  promises: readonly Promise<T>[],
  ms: number,
): Promise<(T | Promise<T>)[]> {
  const results: (T | Promise<T>)[] = [...promises]
  const settle = async (promise: Promise<T>, n: number): Promise<void> => {
    results[n] = await promise
  }
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms)
  })
  try {
    await Promise.race([Promise.all(promises.map(settle)), timeout])
  } finally {
    clearTimeout(timer)
  }
  return results
}
