// Long lists: all of it is there, it scrolls, and what changes is changed in its place.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { scene, until, write } from './harness.mjs'
import { logs } from './seeds.mjs'

/** What a long list may take until it is shown, in milliseconds, on two slow cores and with an unoptimised daemon. */
const SHOWN_MS = 10_000

/** Goes to a list and waits until it has so many rows; gives the milliseconds. */
async function listed(tab, place, view, count) {
  const begun = performance.now()
  await tab.go(place)
  await tab.view(view)
  await until(`${count} rows`, async () => (await tab.main.locator('.row[data-key]').count()) === count)
  return performance.now() - begun
}

/** Brings a row into view by the wheel, as a person would, and to the middle; gives where on the screen it is then. */
async function wheelTo(tab, row) {
  await tab.main.hover()
  await until('the row to come into view', async () => {
    const seen = await row.evaluate((node) => node.getBoundingClientRect().top < innerHeight - 100)
    if (!seen) await tab.page.mouse.wheel(0, 2_000)
    return seen
  })
  const scrolled = await tab.page.evaluate(() => Math.max(scrollY, document.querySelector('main').scrollTop))
  assert.ok(scrolled > 1_000, `it scrolled by ${scrolled}`)
  await row.evaluate((node) => node.scrollIntoView({ block: 'center' }))
  let top
  await until('the page to stand still', async () => top === (top = await place(row)))
  return top
}

/** Where on the screen a row is. */
const place = (row) => row.evaluate((node) => node.getBoundingClientRect().top)
/** What comes of fractions of pixels. */
const ROUNDING = 2

for (const count of [101, 1_000]) {
  scene(`${count} worktrees are listed, scroll, and are patched in their places`, async (site, t) => {
    const repository = site.repository('app', { todos: ['one'] })
    const names = repository.worktrees(site.path('trees'), count)
    await site.start([repository])
    await site.api.get('/worktrees?wait_ms=45000')
    const tab = await site.tab()
    await tab.live()
    const ms = await listed(tab, '#/worktrees?show=all&order=name', 'worktrees', count + 1)
    t.diagnostic(`${count} worktrees: ${Math.round(ms)} ms`)
    assert.ok(ms < SHOWN_MS)
    const name = names[Math.floor(count * 0.8)]
    const row = tab.row(`app/${name}`)
    const top = await wheelTo(tab, row)
    await tab.shows(/clean/, row)
    // A row is marked, a text selected: after the change they are what they were, and where.
    await row.evaluate((node) => {
      node.marked = true
      getSelection().selectAllChildren(node.querySelector('.name') ?? node)
    })
    const selected = await tab.page.evaluate(() => getSelection().toString())
    assert.match(selected, new RegExp(name))
    write(join(site.path('trees', name), 'new.txt'), 'x\n')
    await site.api.post(`/worktrees/app/${name}/refresh`)
    await tab.shows(/1 new/, row)
    assert.equal(await row.evaluate((node) => node.marked), true, 'it is the node it was')
    assert.ok(Math.abs((await place(row)) - top) < ROUNDING, 'it stands where it stood')
    assert.equal(await tab.page.evaluate(() => getSelection().toString()), selected, 'what was selected is selected')
  })
}

scene('1000 sessions are listed, scroll, and are patched in their places', async (site, t) => {
  const repository = site.repository('app', { todos: ['one'] })
  await site.start([repository], { settings: { sessions: { log_dirs: [logs(site, 1_000, { cwd: repository.path })] } } })
  await until('every log to be read', async () => (await site.api.get('/sessions')).good.length === 1_000)
  const { claim } = await site.api.order('one', { worker: 'heron' })
  const tab = await site.tab()
  await tab.live()
  const ms = await listed(tab, '#/sessions?sort=title', 'sessions', 1_001)
  t.diagnostic(`1000 sessions: ${Math.round(ms)} ms`)
  assert.ok(ms < SHOWN_MS)
  const last = tab.main.locator('.row[data-key]').nth(900)
  const top = await wheelTo(tab, last)
  await last.evaluate((node) => (node.marked = true))
  await site.api.report(claim.session, ['note', 'among a thousand'])
  await tab.shows(/among a thousand/, tab.row(claim.session))
  assert.equal(await last.evaluate((node) => node.marked), true)
  assert.ok(Math.abs((await place(last)) - top) < ROUNDING)
})

scene('a long session is read on where it stands while more is told', async (site) => {
  const repository = site.repository('app', { todos: ['one'] })
  await site.start([repository])
  const { claim } = await site.api.order('one')
  for (let part = 0; part < 5; part += 1) await site.api.report(claim.session, ...Array.from({ length: 60 }, (_, number) => ['note', `thought ${part * 60 + number}`]))
  const tab = await site.tab({ place: `#/sessions/${encodeURIComponent(claim.session)}` })
  await tab.view('session')
  await tab.shows(/thought 299/)
  await tab.live()
  const read = tab.main.getByText('thought 150', { exact: true }).first()
  await read.scrollIntoViewIfNeeded()
  await read.evaluate((node) => (node.marked = true))
  const where = await read.evaluate((node) => node.getBoundingClientRect().top)
  await site.api.report(claim.session, ['note', 'one more thought'])
  await tab.shows(/one more thought/)
  assert.equal(await read.evaluate((node) => node.marked), true)
  assert.ok(Math.abs((await read.evaluate((node) => node.getBoundingClientRect().top)) - where) < 2)
})
