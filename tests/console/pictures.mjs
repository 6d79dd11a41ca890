#!/usr/bin/env node
// Pictures of every view of the console, light and dark, and one of a telephone: of a day made for them (day.mjs), or of
// a daemon that runs.
//
//   node tests/console/pictures.mjs                               docs/img/console-<view>-<light|dark>.png
//   node tests/console/pictures.mjs --out DIR --data DIR/data     of the daemon on this data directory, into DIR
//   node tests/console/pictures.mjs now todos                     only of these views
//
// CONSOLE_TEST_PROGRAM names the daemon; without it the newest that was built here.

import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Browser, Tab } from './browser.mjs'
import { Client } from './client.mjs'
import { Day } from './day.mjs'

const SCREEN = { width: 1440, height: 900 }
const TELEPHONE = { viewport: { width: 390, height: 844 }, colorScheme: 'light', isMobile: true, hasTouch: true }
/** How long a page asks nothing before it is taken, in milliseconds. */
const QUIET_MS = 500
/** A picture larger than this is told. */
const BYTES_MAX = 200_000

const first = async (client, path, fits = () => true) => {
  const all = (await client.get(path)).good
  return all.find(fits) ?? all[0]
}

/** Where each view is, and what it is called; some need to know what there is. */
const PLACES = {
  now: () => '#/now',
  todos: () => '#/todos',
  todo: async (client) => {
    const todo = await first(client, '/todos', (each) => each.claim && each.attempts > 0)
    return `#/todos/${todo.repo}/${todo.slug}`
  },
  worktrees: () => '#/worktrees',
  worktree: async (client) => {
    const row = await first(client, '/worktrees', (each) => each.changes?.unstaged > 0 || each.operation_in_progress)
    return `#/worktrees/${row.repo}/${encodeURIComponent(row.name)}`
  },
  sessions: () => '#/sessions',
  session: async (client) => `#/sessions/${encodeURIComponent((await first(client, '/sessions', (each) => each.waits_for)).id)}`,
  lanes: () => '#/lanes',
  lane: async (client) => `#/lanes/${(await first(client, '/lanes', (each) => each.state === 'paused')).lane}`,
  system: () => '#/system',
  hang: async (client) => `#/system/hangs/${(await first(client, '/hangs')).id}`,
}

async function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { out: { type: 'string' }, data: { type: 'string' } } })
  const out = values.out ?? fileURLToPath(new URL('../../docs/img', import.meta.url))
  mkdirSync(out, { recursive: true })
  const say = (text) => process.stderr.write(`pictures: ${text}\n`)
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'slugline-pictures-')))
  process.env.TMPDIR = dir
  const browser = await Browser.launch()
  // Behind what ends Chromium, which writes there as long as it lives.
  process.on('exit', () => rmSync(dir, { recursive: true, force: true, maxRetries: 10 }))
  const day = values.data ? null : await Day.make(dir, { say })
  const daemon = day?.daemon ?? running(values.data)
  const over = new AbortController()
  const living = day?.goOnLiving(over.signal)
  const take = async (name, look, place) => {
    const tab = await Tab.open(browser, await browser.person(look), daemon)
    await tab.signIn(place)
    await tab.live()
    await tab.page.locator('main[data-view]:not([aria-busy="true"])').waitFor()
    await tab.settled(QUIET_MS)
    await tab.page.evaluate(() => document.fonts.ready)
    const path = join(out, `console-${name}.png`)
    await tab.page.screenshot({ path })
    await tab.context.close()
    const { size } = statSync(path)
    say(`${path} (${Math.round(size / 1_000)} kB${size > BYTES_MAX ? ', too large' : ''})`)
  }
  try {
    for (const [view, place] of Object.entries(PLACES).filter(([view]) => !positionals.length || positionals.includes(view))) {
      const where = await place(daemon.client)
      for (const scheme of ['light', 'dark']) await take(`${view}-${scheme}`, { viewport: SCREEN, colorScheme: scheme }, where)
      if (view === 'now') await take('telephone', TELEPHONE, where)
    }
  } finally {
    over.abort()
    await living
    await browser.close()
    await day?.daemon.stop()
  }
}

/** What is known of a daemon that somebody else started. */
function running(data) {
  const read = (name) => readFileSync(join(data, name), 'utf8').trim()
  const client = new Client(read('address'), read('token'))
  return { client, url: `http://${client.address}` }
}

await main()
process.exit(0)
