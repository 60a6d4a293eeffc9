// The assertion of the type tests, which run in the compiler: `npm run build` fails if a type changes.

/** Fails to compile unless the types are identical. */
export function exact<A, B>(..._: Same<A, B> extends true ? [] : [error: 'the types differ', A, B]): void {}

/** Compares as TypeScript does: `any` equals only itself, and `T | undefined` isn't `T`. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
