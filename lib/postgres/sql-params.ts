// Parameters of statements: the values of one row, or columns of many as delimited text.
import { separator } from '../session/session-id.js'

/** Values between separators: quoting each of an array, and reading that, costs more than all else that is done to it. */
export function joinValues(values: readonly unknown[]): string {
  return values.join(separator)
}

/** Such a list as an array; what is empty is null. */
export function listParam(parameter: string): string {
  return `string_to_array(${parameter}::text, chr(30), '')`
}

/** Columns `$1`, `$2`, … of one row. */
export function rowParams(columns: readonly (readonly [name: string, type: string])[]): string {
  const values = columns.map(([, type], n) => `$${n + 1}::${type}`)
  return `(select ${values.join(', ')}) as u (${columns.map(([name]) => name).join(', ')})`
}

/** The lists `$1`, `$2`, … as columns. PostgreSQL would plan anew for each array that it sees: behind a select it sees none. */
export function columnParams(columns: readonly (readonly [name: string, type: string])[]): string {
  const arrays = columns.map(([, type], n) => {
    const array = listParam(`$${n + 1}`)
    return type === 'text' ? `(select ${array})` : `(select ${array}::${type}[])`
  })
  return `unnest(${arrays.join(', ')}) as u (${columns.map(([name]) => name).join(', ')})`
}
