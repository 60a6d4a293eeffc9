// The types of the browser's document that the types of playwright-core and axe-core name. Not TypeScript's library `dom`, which
// would declare the browser's globals for all files.
declare global {
  interface Node {
    readonly nodeName: string
  }
  interface Element extends Node {
    readonly tagName: string
  }
  interface HTMLElement extends Element {
    readonly innerText: string
  }
  interface SVGElement extends Element {
    readonly id: string
  }
  interface HTMLElementTagNameMap {
    readonly [name: string]: HTMLElement
  }
}

export {}
