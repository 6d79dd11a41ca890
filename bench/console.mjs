// What the console costs a browser, in a real Chromium on a real daemon with real repositories:
//
//   bytes     what goes over the wire until Now is there, in a browser that has nothing yet
//   first row how long from opening the page until its first row is painted: 101 and 1,000 worktrees, 1,000 sessions;
//             beside a page that does nothing but fetch the list and put its JSON up as one text (the floor)
//   event     time of the main thread per event at ten events a second, with 1,000 sessions listed; beside a page that
//             reads the list again at every event and makes all rows anew
//   memory    the page's heap before and after as many events as an hour at that pace has (36,000)
//
// bench/console [--quick]: quick has 3,600 events instead of 36,000.

import { setTimeout as pause } from 'node:timers/promises'
import { mkdirSync, writeFileSync } from 'node:fs'

if (process.argv.includes('--help') || process.argv.includes('-h')) {
  console.log('bench/console [--quick]\n\nbytes at first load, time to the first row, main-thread time per event, memory after an hour of events')
  process.exit()
}
const { Site } = await import('../tests/console/harness.mjs')

const QUICK = process.argv.includes('--quick')
/** How often each time to the first row is taken. */
const LOADS = QUICK ? 5 : 15
const EVENTS_PER_S = 10
const WATCH_S = QUICK ? 10 : 30
/** Events of an hour. */
const HOUR = QUICK ? 3_600 : 36_000
/** Reports that are under way at once while an hour is hurried through. */
const AT_ONCE = 8

const rows = []
const line = (what, ours, rival = '', ratio = '') => {
  rows.push([what, ours, rival, ratio])
  console.log([what.padEnd(52), ours.padEnd(22), rival.padEnd(26), ratio].join(' '))
}
const percentile = (list, p) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor((list.length * p) / 100))]
const ms = (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`
const kb = (value) => `${(value / 1000).toFixed(1)} KB`

line('what', 'console', 'rival', 'ratio')
const site = new Site()
try {
  mkdirSync(site.path('logs'), { recursive: true })
  for (let i = 0; i < 1_000; i++) {
    const at = new Date(Date.now() - i * 60_000).toISOString()
    const event = (kind, text) => JSON.stringify({ timestamp: at, type: kind, text })
    writeFileSync(site.path('logs', `s${String(i).padStart(4, '0')}.jsonl`), `${event('user', `task ${i}`)}\n${event('assistant', 'reading the code')}\n`)
  }
  const app = site.repository('app', { todos: ['fix-login', 'add-search', 'docs'] })
  await site.start([app], { settings: { sessions: { log_dirs: [site.path('logs')] } } })
  const order = await site.api.order('fix-login')
  await site.api.report(order.claim.session, ['note', 'begun'])

  await bytes()
  await firstRow('1,000 sessions', '#/sessions', '/sessions')
  for (const many of [101, 1_000]) {
    worktrees(app, many)
    // Connections that were closed meanwhile are noticed before the next question.
    await pause(500)
    await site.api.get('/worktrees?wait_ms=45000')
    await firstRow(`${many.toLocaleString('en')} worktrees`, '#/worktrees?show=all', '/worktrees')
  }
  await events(order.claim.session)
} finally {
  await site.close()
}
process.exit()

function worktrees(app, many) {
  for (let i = app.made ?? 0; i < many; i++) app.git('worktree', 'add', '--quiet', '-b', `w${i}`, site.path('trees', `w${i}`))
  app.made = many
}

async function bytes() {
  const tab = await site.tab({ place: '#/now' })
  await tab.view('now')
  // Another tab of somebody who is signed in and has nothing of the page.
  const fresh = await tab.context.newPage()
  const cdp = await tab.context.newCDPSession(fresh)
  await cdp.send('Network.enable')
  await cdp.send('Network.setCacheDisabled', { cacheDisabled: true })
  const sizes = new Map()
  const urls = new Map()
  cdp.on('Network.responseReceived', ({ requestId, response }) => urls.set(requestId, response.url))
  cdp.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => sizes.set(requestId, encodedDataLength))
  await fresh.goto(`${site.daemon.url}/console/#/now`)
  await fresh.locator('main[data-view="now"][aria-busy="false"] .row').first().waitFor()
  await pause(1_500)
  const sum = (wanted) => [...sizes].filter(([id]) => wanted(new URL(urls.get(id) ?? 'http://x/').pathname)).reduce((all, [, size]) => all + size, 0)
  const files = sum((path) => path.startsWith('/console/'))
  line('bytes at first load: page and modules', kb(files), `${sizes.size} requests in all`)
  line('bytes at first load: answers of the API', kb(sum((path) => !path.startsWith('/console/'))))
  await tab.context.close()
}

async function firstRow(what, place, api) {
  const tab = await site.tab({})
  const taken = [], floor = []
  for (let i = 0; i < LOADS; i++) {
    taken.push(await timed(tab, `${site.daemon.url}/console/${place}`, null))
    floor.push(await timed(tab, `${site.daemon.url}/console/icon.svg`, api))
  }
  line(`first row of ${what}, p50`, ms(percentile(taken, 50)), `${ms(percentile(floor, 50))} fetched, as text`, `${(percentile(taken, 50) / percentile(floor, 50)).toFixed(1)}x`)
  await tab.context.close()
}

/** From opening a page until it is painted with a row in it; with `api`, until what that tells is there as text. */
async function timed(tab, url, api) {
  const page = await tab.context.newPage()
  await page.goto(url, { waitUntil: 'commit' })
  const took = await page.evaluate(async (api) => {
    const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))
    if (api) {
      const told = await (await fetch(api, { headers: { 'X-Slugline-Key': localStorage.getItem('slugline.key') } })).json()
      const text = document.createElementNS('http://www.w3.org/2000/svg', 'text')
      text.textContent = JSON.stringify(told)
      document.documentElement.append(text)
    } else {
      while (!document.querySelector('main .row')) await new Promise((done) => requestAnimationFrame(done))
    }
    await painted()
    return performance.now()
  }, api)
  await page.close()
  return took
}

async function events(session) {
  const tab = await site.tab({ place: '#/sessions' })
  await tab.view('sessions')
  const cdp = await tab.context.newCDPSession(tab.page)
  await cdp.send('Performance.enable')
  const metric = async (name) => (await cdp.send('Performance.getMetrics')).metrics.find((one) => one.name === name).value
  const busy = async (seconds, act) => {
    const before = await metric('TaskDuration')
    await act(seconds)
    return ((await metric('TaskDuration')) - before) * 1_000
  }
  let said = 0
  const paced = async (seconds) => {
    const begun = performance.now()
    for (let i = 0; i < seconds * EVENTS_PER_S; i++) {
      await site.api.report(session, ['note', `step ${(said += 1)}`])
      await pause(Math.max(0, begun + ((i + 1) * 1_000) / EVENTS_PER_S - performance.now()))
    }
  }
  await pause(2_000)
  const idle = await busy(WATCH_S, (seconds) => pause(seconds * 1_000))
  const ours = ((await busy(WATCH_S, paced)) - idle) / (WATCH_S * EVENTS_PER_S)

  // The rival: the same list, read again and made anew at every event, in a page that is otherwise empty.
  const other = await tab.context.newPage()
  await other.goto(`${site.daemon.url}/console/icon.svg`)
  const theirs = await other.evaluate(async ({ many, every }) => {
    let spent = 0
    for (let i = 0; i < many; i++) {
      const response = await fetch('/sessions', { headers: { 'X-Slugline-Key': localStorage.getItem('slugline.key') }, cache: 'no-store' })
      const text = await response.text()
      const begun = performance.now()
      const list = JSON.parse(text)
      const rows = list.map((one) => {
        const row = document.createElementNS('http://www.w3.org/1999/xhtml', 'div')
        for (const value of [one.title, one.worker, one.last?.text, one.events, one.active_at, one.status]) row.append(Object.assign(document.createElementNS('http://www.w3.org/1999/xhtml', 'span'), { textContent: value }))
        return row
      })
      document.documentElement.replaceChildren(...rows)
      document.documentElement.getBoundingClientRect()
      spent += performance.now() - begun
      await new Promise((done) => setTimeout(done, every))
    }
    return spent / many
  }, { many: 50, every: 1_000 / EVENTS_PER_S })
  await other.close()
  line(`main thread per event, 1,000 sessions, ${EVENTS_PER_S}/s`, ms(ours), `${ms(theirs)} list read again`, `${(ours / theirs).toFixed(2)}x`)
  line('main thread idle, share of a core', `${(idle / WATCH_S / 10).toFixed(2)} %`)

  const heap = async () => {
    await cdp.send('HeapProfiler.collectGarbage')
    await pause(500)
    await cdp.send('HeapProfiler.collectGarbage')
    return { heap: await metric('JSHeapUsedSize'), nodes: await metric('Nodes') }
  }
  const before = await heap()
  let left = HOUR
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (left-- > 0) await site.api.report(session, ['note', `step ${(said += 1)}`])
  }))
  await tab.shows(new RegExp((said + 1).toLocaleString('en')), tab.row(session))
  const after = await heap()
  const mb = (value) => `${(value / 1e6).toFixed(2)} MB`
  line(`heap after ${HOUR.toLocaleString('en')} events`, mb(after.heap), `${mb(before.heap)} before`, `${(after.heap / before.heap).toFixed(2)}x`)
  line('nodes after as many', String(after.nodes), `${before.nodes} before`, `${(after.nodes / before.nodes).toFixed(2)}x`)
}
