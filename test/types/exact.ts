// What the type tests say it with. They run in the compiler: `npm run build` fails when a type is loosened or tightened.

/** Fails to compile unless the two types are the same one. */
export function exact<A, B>(..._: Same<A, B> extends true ? [] : [error: 'the types differ', A, B]): void {}

/** Told apart as TypeScript itself does: `any` is the same as nothing else, and `T | undefined` isn't `T`. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
