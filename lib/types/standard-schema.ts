// The types of Standard Schema 1, copied as standardschema.dev suggests, so that no dependency is needed.

/** A schema that validates a value, such as one of zod, valibot or arktype. */
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

/** The type that a schema accepts. */
export type InputOf<Schema extends StandardSchemaV1> = Types<Schema>['input']

/** The type that a schema returns. */
export type OutputOf<Schema extends StandardSchemaV1> = Types<Schema>['output']
