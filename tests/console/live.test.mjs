// What happens shows by itself, at once, and after the daemon was away.

import assert from 'node:assert/strict'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { scene, until, write } from './harness.mjs'
import { rules, waitsFor } from './seeds.mjs'

/** What happened is on the page within this time, in milliseconds: from just before it is told to the daemon. */
const AT_ONCE_MS = 1_000
/** How often it is tried: a machine that is busy with something else is late once, a page that waits is late each time. */
const TRIES = 3
/** While the daemon is away the browser says so of every try. */
const AWAY = /ERR_|status of 503/

async function app(site, todos, options = {}) {
  const repository = site.repository('app', { todos, ...options.repository })
  await site.start([repository], options.daemon)
  return repository
}

/** Does something, the next thing each time, and expects what it says to be shown in time. `next(n)` is `[act, text, key]`. */
async function atOnce(t, tab, what, next) {
  const shown = ([text, key]) => (key ? [...document.querySelectorAll('main [data-key]')].filter((row) => row.dataset.key === key) : [document.querySelector('main')]).some((place) => place.textContent.includes(text))
  const late = []
  while (late.length < TRIES && !(late.at(-1) < AT_ONCE_MS)) {
    const [act, ...wanted] = next(late.length)
    late.push(Math.round(await tab.lateness(act, shown, wanted)))
  }
  t.diagnostic(`${what}: ${late.join(', ')} ms`)
  assert.ok(late.at(-1) < AT_ONCE_MS, `${what} was shown after ${late.join(', ')} ms`)
}

/** Notes every state of the stream from now on. */
const noteStates = (tab) =>
  tab.page.evaluate(() => {
    globalThis.states = [document.body.dataset.live]
    new MutationObserver(() => globalThis.states.at(-1) !== document.body.dataset.live && globalThis.states.push(document.body.dataset.live)).observe(document.body, { attributeFilter: ['data-live'] })
  })

scene('a todo that is claimed shows so within a second', async (site, t) => {
  const todos = ['one', 'two', 'three']
  await app(site, todos)
  const tab = await site.tab({ place: '#/todos' })
  await tab.live()
  await tab.row('app/one').waitFor()
  await atOnce(t, tab, 'a claim', (n) => [() => site.api.order(todos[n], { worker: 'heron' }), 'heron', `app/${todos[n]}`])
})

scene('a lane that is paused shows so within a second', async (site, t) => {
  await app(site, ['one'])
  await site.api.order('one')
  const tab = await site.tab({ place: '#/lanes' })
  await tab.live()
  await tab.row('builder').waitFor()
  await atOnce(t, tab, 'a pause', (n) => [() => site.api.pause('builder', `reason ${n}`), `reason ${n}`, 'builder'])
})

scene('what an agent reports shows within a second, in the list and in the session itself', async (site, t) => {
  await app(site, ['one'])
  const { claim } = await site.api.order('one')
  const tab = await site.tab({ place: '#/sessions' })
  await tab.live()
  await tab.row(claim.session).waitFor()
  const says = (text) => [() => site.api.report(claim.session, ['note', text]), text]
  await atOnce(t, tab, 'a report', (n) => [...says(`thought ${n}`), claim.session])
  await tab.at(`#/sessions/${encodeURIComponent(claim.session)}`, 'session')
  await tab.shows(/thought 0/)
  await atOnce(t, tab, 'a report in its session', (n) => says(`another ${n}`))
})

scene('a file that is written in a worktree shows within a second', async (site, t) => {
  const repository = await app(site, ['one'])
  const mine = repository.worktree(site.path('people', 'mine'))
  await site.api.get('/worktrees?wait_ms=10000')
  const tab = await site.tab({ place: '#/worktrees' })
  await tab.live()
  await tab.shows(/clean/, tab.row('app/mine'))
  await until('it to be watched', async () => (await site.api.worktree('app', 'mine')).watch === 'watched')
  await atOnce(t, tab, 'a file', (n) => [async () => write(join(mine, `new-${n}.txt`), 'x\n'), `${n + 1} new`, 'app/mine'])
})

scene('an operation shows within a second that it runs, and that it is over', async (site, t) => {
  const file = site.path('go-on')
  const slow = ['slow', 'slower', 'slowest']
  await app(site, slow, { repository: { settings: rules({ prepare: waitsFor(file) }) } })
  const tab = await site.tab()
  await tab.live()
  await tab.shows(/Nothing is being prepared/)
  const ids = []
  await atOnce(t, tab, 'an operation', (n) => [async () => ids.push(await site.api.begin(slow[n])), `app/${slow[n]}`])
  await tab.shows(/running[\s\S]*prepare/)
  await atOnce(t, tab, 'the end of all', () => [async () => write(file, ''), 'Nothing is being prepared'])
  for (const id of ids) assert.equal((await site.api.ended(id)).state, 'succeeded')
})

scene('a new todo, a new worktree and one that goes show by themselves', async (site) => {
  const repository = await app(site, ['one'])
  const tab = await site.tab({ place: '#/todos' })
  await tab.live()
  await tab.row('app/one').waitFor()
  await site.api.post('/todos/app', { slug: 'filed', brief: 'from elsewhere' })
  await tab.row('app/filed').waitFor()
  await tab.at('#/worktrees', 'worktrees')
  const mine = repository.worktree(site.path('people', 'mine'))
  await tab.row('app/mine').waitFor()
  repository.git('worktree', 'remove', mine)
  await tab.row('app/mine').waitFor({ state: 'detached' })
})

scene('after a kill -9 the page goes from live to reconnecting to live, and shows what happened meanwhile', async (site) => {
  const repository = await app(site, ['one'])
  site.expects(AWAY)
  const tab = await site.tab({ place: '#/todos' })
  await tab.live()
  await tab.row('app/one').waitFor()
  await noteStates(tab)
  await site.daemon.kill()
  await tab.live('reconnecting')
  await tab.shows(/reconnecting/i, tab.page.locator('#live'))
  assert.ok(await tab.row('app/one').isVisible(), 'what was known is still there')
  repository.plan(['one', 'meanwhile'])
  repository.commit('one more')
  await site.daemon.again()
  await site.api.order('one', { worker: 'heron' })
  await tab.live()
  await tab.row('app/meanwhile').waitFor()
  await tab.shows(/heron/, tab.row('app/one'))
  assert.deepEqual(await tab.page.evaluate(() => globalThis.states), ['live', 'reconnecting', 'live'])
  await tab.signed('in')
})

scene('a daemon that stops in order is found again, too', async (site) => {
  await app(site, ['one'])
  site.expects(AWAY)
  const tab = await site.tab()
  await tab.live()
  await noteStates(tab)
  await site.daemon.restart()
  await until('the stream to be back', async () => (await site.api.metric('slugline_sse_clients')) === 1)
  await tab.live()
  await site.api.pause('docs', 'after the restart')
  await tab.shows(/after the restart/)
  assert.deepEqual(await tab.page.evaluate(() => globalThis.states), ['live', 'reconnecting', 'live'])
})

scene('a daemon with another ledger is taken as it is', async (site) => {
  await app(site, ['one'])
  site.expects(AWAY)
  await site.api.order('one', { worker: 'heron' })
  const tab = await site.tab({ place: '#/todos' })
  await tab.live()
  await tab.shows(/heron/, tab.row('app/one'))
  const forget = () => {
    for (const name of readdirSync(site.daemon.data)) if (/ledger|\.db|sqlite/.test(name)) rmSync(join(site.daemon.data, name), { recursive: true })
  }
  await site.daemon.restart(forget)
  assert.equal((await site.api.todo('app', 'one')).claim, null)
  await tab.live()
  await tab.hides(/heron/, tab.row('app/one'))
})

scene('without a daemon the page says offline in words, keeps what it knows, and comes back by itself', async (site) => {
  await app(site, ['one'])
  site.expects(AWAY)
  const tab = await site.tab({ place: '#/todos' })
  await tab.live()
  await tab.row('app/one').waitFor()
  await site.daemon.kill()
  await tab.live('offline', 30_000)
  await tab.shows(/offline/i, tab.page.locator('#live'))
  assert.ok(await tab.row('app/one').isVisible())
  await tab.go('#/lanes')
  await tab.shows(/does not answer/i)
  await site.daemon.again()
  await tab.live('live', 15_000)
  await tab.hides(/does not answer/i)
  await tab.view('lanes')
})

scene('times go on by themselves', async (site) => {
  await app(site, ['one'])
  const order = await site.api.order('one')
  await site.api.report(order.claim.session, ['note', 'x'])
  const tab = await site.tab({ place: '#/sessions' })
  await tab.view('sessions')
  const time = tab.row(order.claim.session).locator('time').last()
  const first = await time.textContent()
  await until('the time to go on', async () => (await time.textContent()) !== first)
})
