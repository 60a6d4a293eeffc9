// Builds the parameters of statements: the values of one row, or columns of many rows as delimited text.
import { separator } from '../session/session-id.js'

/** Joins the values of a column by a separator: quoting and parsing an array would cost more than the rest of the statement. */
export function joinValues(values: readonly unknown[]): string {
  return values.join(separator)
}

/** SQL that splits joined values into an array; an empty value is null. */
export function listParam(parameter: string): string {
  return `string_to_array(${parameter}::text, chr(30), '')`
}

/** SQL for one row of the parameters `$1`, `$2`, …, as `u`. */
export function rowParams(columns: readonly (readonly [name: string, type: string])[]): string {
  const values = columns.map(([, type], n) => `$${n + 1}::${type}`)
  return `(select ${values.join(', ')}) as u (${columns.map(([name]) => name).join(', ')})`
}

/**
 * SQL for many rows, as `u`, whose columns are the joined values `$1`, `$2`, …. Each array is a subselect: PostgreSQL would
 * make a new plan for every array that it sees while planning.
 */
export function columnParams(columns: readonly (readonly [name: string, type: string])[]): string {
  const arrays = columns.map(([, type], n) => {
    const array = listParam(`$${n + 1}`)
    return type === 'text' ? `(select ${array})` : `(select ${array}::${type}[])`
  })
  return `unnest(${arrays.join(', ')}) as u (${columns.map(([name]) => name).join(', ')})`
}
