// Formats figures for the page and for lines. Pure.
import { number } from '../terminal.js'

/** Stands for what isn't known. */
export const unknown = '–'

export function perSecond(rate: number | undefined): string {
  if (rate === undefined) return unknown
  return rate > 0 && rate < 9.95 ? rate.toFixed(1) : number(Math.round(rate))
}

export function percent(share: number | undefined): string {
  if (share === undefined) return unknown
  // 100 % only if it is.
  return `${share > 0.99 && share < 1 ? (Math.floor(share * 1_000) / 10).toFixed(1) : Math.round(share * 100)} %`
}

export function plural(count: number, noun: string, ending = 's'): string {
  return `${number(count)} ${noun}${count === 1 ? '' : ending}`
}

/** The time of day, in the time zone of this machine. */
export function timeOf(iso: string): string {
  return new Date(iso).toLocaleTimeString('en-GB')
}
