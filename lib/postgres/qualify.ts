// Qualifies the functions, operators, types and catalogs in a statement with pg_catalog, as pg_dump and postgres_fdw do. So the
// search path decides nothing: otherwise a function or an operator in another schema would run in place of PostgreSQL's own,
// if it suits the types of the arguments better, or if the path names that schema before pg_catalog.
//
// The statements in this package are written as usual, with these rules:
// - a function's name and its parenthesis have no space between them; all other names do, as in `insert into t (id)`;
// - names of the package's own tables are quoted;
// - no `is distinct from`, `nullif`, `between`, `case x when`, `join … using` or `natural join`, as the operator that they use
//   can't be named.

/** Where an expression ends. */
const boundaries = new Set(
  (
    'select distinct from where and or not on using set returning values as is group order by having limit offset for when then' +
    ' else join inner left right full cross lateral with recursive materialized union intersect except asc desc nulls insert into' +
    ' update delete do conflict'
  ).split(' '),
)

/** What looks like functions, and isn't looked up by the search path. */
const syntax = new Set(
  'any all some array row exists in values coalesce greatest least extract cast substring trim overlay position'.split(
    ' ',
  ),
)

/** Types that aren't keywords of SQL. */
const types = new Set(
  'text timestamptz int2 int4 int8 float4 float8 bool json jsonb name oid tid regclass regtype regrole regproc regprocedure regnamespace'.split(
    ' ',
  ),
)

/** How tightly operators bind, as PostgreSQL's documentation has it. With a schema, all bind as tightly as `otherOperator`. */
const precedences: Record<string, number> = {
  '^': 7,
  '*': 6,
  '/': 6,
  '%': 6,
  '+': 5,
  '-': 5,
  in: 3,
  like: 3,
  '=': 2,
  '<': 2,
  '>': 2,
  '<=': 2,
  '>=': 2,
  '<>': 2,
}
const otherOperator = 4

const token =
  /(?<space>(?:\s|--[^\n]*|\/\*[\s\S]*?\*\/)+)|(?<literal>[eE]'(?:[^'\\]|\\[\s\S]|'')*'|'(?:[^']|'')*'|\$(?<tag>\w*)\$[\s\S]*?\$\k<tag>\$)|(?<name>"(?:[^"]|"")*"|\$\d+|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?<word>[a-zA-Z_]\w*)|(?<mark>::|[()[\],;.:])|(?<operator>[-+*/<>=~!@#%^&|`?]+)/y

interface Token {
  readonly kind: 'space' | 'literal' | 'name' | 'word' | 'mark' | 'operator'
  readonly text: string
}

interface Operator {
  readonly text: string
  readonly precedence: number
}

const maxKnown = 500
const known = new Map<string, string>()

/** Returns the qualified statement. Others than select, insert, update and delete are returned as they are. */
export function qualify(statement: string): string {
  let qualified = known.get(statement)
  if (qualified === undefined) {
    qualified = isQualifiable(statement) ? new Qualifier(tokenize(statement)).run() : statement
    if (known.size >= maxKnown) known.clear()
    known.set(statement, qualified)
  }
  return qualified
}

function isQualifiable(statement: string): boolean {
  return /^(?:\s|--[^\n]*\n)*(?:select|with|insert|update|delete)\b/i.test(statement)
}

function tokenize(statement: string): Token[] {
  const tokens: Token[] = []
  token.lastIndex = 0
  while (token.lastIndex < statement.length) {
    const start = token.lastIndex
    const groups = token.exec(statement)?.groups
    if (groups === undefined) {
      // PostgreSQL says what is wrong with it.
      tokens.push({ kind: 'mark', text: statement.charAt(start) })
      token.lastIndex = start + 1
      continue
    }
    const kind = (['space', 'literal', 'name', 'word', 'mark', 'operator'] as const).find(
      (name) => groups[name] !== undefined,
    ) as Token['kind']
    // A comment would hide what follows it in the same line.
    tokens.push({ kind, text: kind === 'space' ? ' ' : (groups[kind] as string) })
  }
  return tokens
}

class Qualifier {
  readonly #tokens: readonly Token[]
  #at = 0
  /** How many commas were at the top of what `#until` returned last. */
  #commas = 0

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens
  }

  run(): string {
    return this.#until(undefined)
  }

  /** Returns everything up to a token, and moves behind it. */
  #until(end: string | undefined): string {
    let out = ''
    let operands = ['']
    let operators: Operator[] = []
    /** In `update … set`, and where a column's name is expected there, after which `=` is no operator. */
    let isInSet = false
    let commas = 0
    let isTarget = false
    const flush = (text: string): void => {
      out += combine(operands, operators) + text
      operands = ['']
      operators = []
      isTarget = isInSet && (text === ',' || text.toLowerCase() === 'set')
    }
    const append = (text: string): void => {
      operands[operands.length - 1] += text
    }
    const infix = (name: string, precedence: number): void => {
      operators.push({ text: `operator(pg_catalog.${name})`, precedence })
      operands.push('')
    }
    for (let current = this.#tokens[this.#at]; current !== undefined; current = this.#tokens[this.#at]) {
      this.#at++
      const { kind, text } = current
      const operand = operands.at(-1) as string
      const word = kind === 'word' ? text.toLowerCase() : ''
      if (kind === 'mark' && text === end) break
      if (word === end) break
      if (kind === 'operator') {
        const isFirst = operand.trim() === ''
        const isStar = text === '*' && (isFirst || operand.endsWith('.'))
        if (isStar) append(text)
        else if (isTarget && text === '=') flush(text)
        else if (isFirst) append(this.#unary(text))
        else infix(text, precedences[text] ?? otherOperator)
      } else if (word === 'unnest' && this.#isCall() && !operand.endsWith('.')) append(this.#unnest(text))
      else if (text === '(') append(`(${this.#until(')')})`)
      else if (text === '[') append(`[${this.#until(']')}]`)
      else if (text === ',' || text === ';') {
        commas++
        flush(text)
      } else if (text === '::') append(`::${this.#type()}`)
      else if (word === 'case') append(`${text}${this.#until('end')}end`)
      else if (word === 'in' || word === 'like' || (word === 'not' && this.#isNext('in', 'like'))) {
        const isNegated = word === 'not'
        if (isNegated) this.#at += 2
        const operator = isNegated ? (this.#tokens[this.#at - 1] as Token).text.toLowerCase() : word
        if (operator === 'like') infix(isNegated ? '!~~' : '~~', precedences.like as number)
        else {
          infix(isNegated ? '<>' : '=', precedences.in as number)
          append(` ${isNegated ? 'all' : 'any'} ${this.#list()}`)
        }
      } else if (boundaries.has(word) && !this.#isCall()) {
        if (word === 'set') isInSet = true
        else if (['from', 'where', 'returning'].includes(word)) isInSet = false
        flush(text)
      } else if (kind === 'word' && !operand.endsWith('.') && this.#isCatalogName(word))
        append(`pg_catalog.${text}`)
      else append(text)
    }
    flush('')
    this.#commas = commas
    return out
  }

  /** Whether the word that was just read names a function, a type or a catalog. */
  #isCatalogName(word: string): boolean {
    const next = this.#tokens[this.#at]
    if (this.#isCall()) return !syntax.has(word)
    if (next?.text === '.') return false
    return word.startsWith('pg_') || (types.has(word) && this.#peek()?.kind === 'literal')
  }

  #isCall(): boolean {
    return this.#tokens[this.#at]?.text === '('
  }

  /** The next token that isn't space. */
  #peek(): Token | undefined {
    const next = this.#tokens[this.#at]
    return next?.kind === 'space' ? this.#tokens[this.#at + 1] : next
  }

  #isNext(...words: string[]): boolean {
    return words.includes(this.#peek()?.text.toLowerCase() ?? '')
  }

  #skipSpace(): void {
    if (this.#tokens[this.#at]?.kind === 'space') this.#at++
  }

  /** The type of a cast. */
  #type(): string {
    const { text = '' } = this.#tokens[this.#at++] ?? {}
    const isQualified = this.#tokens[this.#at]?.text === '.'
    return types.has(text.toLowerCase()) && !isQualified ? `pg_catalog.${text}` : text
  }

  /** With several arguments it is syntax, which only the name without a schema has, and which means PostgreSQL's own. */
  #unnest(name: string): string {
    this.#at++
    const args = this.#until(')')
    return this.#commas > 0 ? `${name}(${args})` : `pg_catalog.${name}(${args})`
  }

  /** What follows `in`: a subquery, or a list that becomes an array. */
  #list(): string {
    this.#skipSpace()
    this.#at++
    const isQuery = this.#isNext('select', 'with')
    const list = this.#until(')')
    return isQuery ? `(${list})` : `(array[${list}])`
  }

  /** A sign and what follows it, in parentheses. */
  #unary(operator: string): string {
    this.#skipSpace()
    const next = this.#tokens[this.#at]
    // A negative number is a constant.
    if (next?.kind === 'name' && /^\d/.test(next.text)) return operator
    const operands: string[] = []
    for (;;) {
      const { text } = this.#tokens[this.#at++] ?? {}
      if (text === undefined) break
      operands.push(text === '(' ? `(${this.#until(')')})` : text)
      if (this.#tokens[this.#at]?.text !== '.' && operands.at(-1) !== '.') break
    }
    return `(operator(pg_catalog.${operator}) ${operands.join('')})`
  }
}

/** Joins operands by their operators, with parentheses around what binds more tightly than the operator before it. */
function combine(operands: readonly string[], operators: readonly Operator[]): string {
  let at = 0
  const parse = (minPrecedence: number): { text: string; isSingle: boolean } => {
    let text = operands[at] as string
    let isSingle = true
    for (
      let operator = operators[at];
      operator && operator.precedence >= minPrecedence;
      operator = operators[at]
    ) {
      at++
      const right = parse(operator.precedence + 1)
      const trimmed = right.text.trim()
      const isLast = at === operators.length
      const space = isLast ? (/\s*$/.exec(right.text)?.[0] ?? '') : ''
      text = `${text.trimEnd()} ${operator.text} ${right.isSingle ? trimmed : `(${trimmed})`}${space}`
      isSingle = false
    }
    return { text, isSingle }
  }
  return parse(0).text
}
