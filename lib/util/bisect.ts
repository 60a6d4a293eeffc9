// Runs many calls at once, and finds those that fail.

/**
 * Runs all calls at once. If that fails, runs each half by itself, and so on, until every call that fails has failed alone;
 * its error stands in for its result.
 */
export async function bisect<C, R>(
  calls: readonly C[],
  run: (calls: readonly C[]) => Promise<readonly R[]>,
  canBisect: (error: unknown) => boolean = () => false,
): Promise<readonly (R | Error)[]> {
  try {
    return await run(calls)
  } catch (error) {
    if (calls.length > 1 && canBisect(error)) {
      const half = calls.length >> 1
      const first = await bisect(calls.slice(0, half), run, canBisect)
      return [...first, ...(await bisect(calls.slice(half), run, canBisect))]
    }
    const failure = error instanceof Error ? error : new Error(String(error))
    return calls.map(() => failure)
  }
}
