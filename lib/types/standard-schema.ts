// The types of Standard Schema 1 (standardschema.dev), which invites to copy them: zod, valibot, arktype and others have them.

/** Anything that can check a value: a schema of zod, valibot, arktype and others. */
export interface StandardSchemaV1<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (
      value: unknown,
    ) => StandardSchemaResult<Output> | Promise<StandardSchemaResult<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

export type StandardSchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly { readonly message: string }[] }

type Types<Schema extends StandardSchemaV1> = NonNullable<Schema['~standard']['types']>

/** What a schema takes. */
export type InputOf<Schema extends StandardSchemaV1> = Types<Schema>['input']

/** What a schema answers. */
export type OutputOf<Schema extends StandardSchemaV1> = Types<Schema>['output']
