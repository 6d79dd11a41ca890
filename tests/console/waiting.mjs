// Waits are for a condition, with a limit that names it. Nothing here sleeps for the sake of sleeping.

import { setTimeout as beat } from 'node:timers/promises'

/** How long anything a test waits for may take, in milliseconds; a slow machine gets there, a hang does not. */
export const PATIENCE_MS = 30_000
/** How often a condition is looked at, in milliseconds. */
const BEAT_MS = 20

/** Waits until the condition gives something, and gives it; fails with its name when the time is up. */
export async function until(what, condition, limitMs = PATIENCE_MS) {
  const begun = performance.now()
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() - begun > limitMs) throw new Error(`waited ${limitMs} ms for: ${what}`)
    await beat(BEAT_MS)
  }
}
