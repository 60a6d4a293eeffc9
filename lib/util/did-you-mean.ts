// Finds the name that a misspelt one was probably meant to be.

/** Returns the known name closest to `name`, if at most a third of its letters differ. */
function closestName(name: string, known: readonly string[]): string | undefined {
  let closest: string | undefined
  let best = Math.max(1, Math.floor(name.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance >= best) continue
    best = distance
    closest = candidate
  }
  return closest
}

/** Returns `; did you mean "host"?`, or an empty string if no known name is close. */
export function didYouMean(name: string, known: readonly string[]): string {
  const closest = closestName(name, known)
  return closest === undefined ? '' : `; did you mean ${JSON.stringify(closest)}?`
}

/** Counts the letters to insert, delete, replace or swap with their neighbour. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let distance = Math.min(at(rows, i - 1, j) + 1, (row[j - 1] ?? 0) + 1, at(rows, i - 1, j - 1) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        distance = Math.min(distance, at(rows, i - 2, j - 2) + 1)
      row.push(distance)
    }
    rows.push(row)
  }
  return at(rows, a.length, b.length)
}

function at(rows: readonly number[][], i: number, j: number): number {
  return rows[i]?.[j] ?? 0
}
