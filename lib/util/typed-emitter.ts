// An EventEmitter whose types reject unknown events: those of @types/node accept any name, so that a misspelt one compiles.
import { EventEmitter } from 'node:events'

type Listener<Arguments> = (...args: Arguments extends unknown[] ? Arguments : never) => void

type Typed =
  | 'on'
  | 'once'
  | 'off'
  | 'addListener'
  | 'removeListener'
  | 'prependListener'
  | 'prependOnceListener'
  | 'emit'

/** `Events` maps the names of the events to the arguments of their listeners. */
export interface TypedEmitter<Events> extends Omit<EventEmitter, Typed> {
  on<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  once<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  off<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  addListener<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  removeListener<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  prependListener<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  prependOnceListener<Name extends keyof Events>(event: Name, listener: Listener<Events[Name]>): this
  emit<Name extends keyof Events>(event: Name, ...args: Parameters<Listener<Events[Name]>>): boolean
}

export const TypedEmitter = EventEmitter as unknown as new <Events>() => TypedEmitter<Events>
