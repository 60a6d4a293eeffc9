// Lets a test look at the error of a promise.

/** Returns the error a promise rejects with; throws if it resolves. */
export async function rejection(promise: PromiseLike<unknown>): Promise<Error> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new Error('the promise did not reject')
}
