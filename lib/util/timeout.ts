// A promise with a time limit.
/** The promise, or an error after `ms`; `ref: false`: waiting for it doesn't keep the process alive. */
export async function withTimeout<T>(
  promise: PromiseLike<T>,
  ms: number,
  what: string,
  ref = true,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${ms} ms`)), ms)
    if (!ref) timer.unref()
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
