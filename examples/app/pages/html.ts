// A template tag for HTML. It escapes what is inserted, except HTML that it has made itself.

export class Html {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  toString(): string {
    return this.#text
  }
}

type Inserted = string | number | Html | Inserted[] | false | undefined

export function html(texts: TemplateStringsArray, ...values: Inserted[]): Html {
  return new Html(texts.map((text, n) => (n === 0 ? text : toHtml(values[n - 1]) + text)).join(''))
}

function toHtml(value: Inserted): string {
  if (value === undefined || value === false) return ''
  if (value instanceof Html) return value.toString()
  if (Array.isArray(value)) return value.map(toHtml).join('')
  return String(value).replace(/[&<>"']/g, (character) => entities[character] ?? character)
}

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
