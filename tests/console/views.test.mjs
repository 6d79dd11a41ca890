// Every view shows what is so.

import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { commit, git, scene, write } from './harness.mjs'
import { HURRIED, NO_ROOM, blocked, deadLetter, failedGate, hangDump, logs, pausedByBreaker, pausedByPerson, rules, stuck, unusable, waiting, waitsFor } from './seeds.mjs'

/** A daemon on one repository `app`. */
async function app(site, todos, { settings, rules: declared, ...more } = {}) {
  const repository = site.repository('app', { todos, settings: declared ? rules(declared) : '' })
  await site.start([repository], { settings: { ...HURRIED, ...settings }, ...more })
  return repository
}

scene('Now says that all is well when it is', async (site) => {
  // A machine that is busy with other things may hold a thread up for a moment; that is not what this is about.
  await app(site, ['one'], { settings: { readiness: { min_span_ms: 0 }, watchdog: { lag_threshold_ms: 30_000 } } })
  const tab = await site.tab()
  await tab.view('now')
  await tab.shows(/All is well/i)
  await tab.shows(/Nobody works/i)
})

scene('Now shows everything that needs a person: who waits, who is stuck, what is paused, blocked, red or given up', async (site) => {
  const gate = ['test', 'test ! -e broken || { echo it is broken; exit 1; }']
  await app(site, ['asks', 'quiet', 'wedged', 'lost', 'red', 'f1', 'f2', 'f3'], { rules: { gates: [gate] } })
  const { api } = site
  await waiting(api, 'asks', 'Which of the two colours?')
  await blocked(api, 'wedged', 'Needs the word of a lawyer')
  await deadLetter(api, 'lost')
  await failedGate(site, 'red')
  await pausedByPerson(api, 'docs', 'Until the guide is written')
  await pausedByBreaker(api, 'flaky', ['f1', 'f2', 'f3'])
  await stuck(api, 'quiet')
  const tab = await site.tab()
  await tab.view('now')
  for (const wanted of [/Which of the two colours/, /Needs the word of a lawyer/, /given up after 5 attempts/, /Until the guide is written/, /app\/quiet/, /registry/]) await tab.shows(wanted)
  await tab.shows(/app\/red[\s\S]*test/, tab.main.locator('[data-key]').filter({ hasText: 'gate failed' }))
})

scene('Now says that automation should not rely on the daemon, and why', async (site) => {
  await app(site, ['one'], { settings: { readiness: NO_ROOM } })
  const tab = await site.tab()
  await tab.shows(/NO.GO/)
  await tab.shows(/MB are free/)
})

scene('one repository that cannot be served is shown and takes nothing else away', async (site) => {
  const good = site.repository('app', { todos: ['one'] })
  await site.start([good, unusable(site)])
  const tab = await site.tab()
  await tab.shows(/broken/)
  await tab.shows(/not a git repository/)
  await tab.at('#/todos', 'todos')
  await tab.row('app/one').waitFor()
  await tab.at('#/system', 'system')
  await tab.shows(/not a git repository/)
})

scene('todos are shown by stage with who holds them, and can be narrowed down', async (site) => {
  await app(site, ['free', 'held', 'stopped', { slug: 'later', after: ['free'] }, 'finished'])
  const { api } = site
  const order = await api.order('held', { worker: 'heron' })
  await api.heartbeat(order, 'two of three steps')
  await blocked(api, 'stopped', 'Which of the two?')
  await api.done(await api.order('finished'))
  const tab = await site.tab({ place: '#/todos' })
  await tab.view('todos')
  await tab.shows(/heron/, tab.row('app/held'))
  await tab.shows(/two of three steps/, tab.row('app/held'))
  await tab.shows(/free/, tab.row('app/later'))
  await tab.shows(/Which of the two/, tab.row('app/stopped'))
  await tab.page.getByRole('searchbox').fill('heron')
  await tab.row('app/free').waitFor({ state: 'detached' })
  assert.ok(await tab.row('app/held').isVisible())
  assert.match(tab.page.url(), /heron/, 'what is searched for is in the address')
  await tab.at('#/todos?stage=done', 'todos')
  await tab.row('app/finished').waitFor()
  assert.equal(await tab.row('app/free').count(), 0)
})

scene('a todo shows its claim, its gates with their log, its operations with every phase, and what happened', async (site) => {
  await app(site, ['red'], { rules: { gates: [['test', 'test ! -e broken || { echo one of 12 tests failed; exit 3; }']] } })
  await failedGate(site, 'red', { worker: 'heron' })
  const tab = await site.tab({ place: '#/todos/app/red' })
  await tab.view('todo')
  await tab.shows(/heron/)
  await tab.shows(/exit (code )?3/)
  for (const phase of ['resolve', 'worktree', 'prepare', 'sync main', 'sync todo', 'gates', 'dispatch']) await tab.shows(new RegExp(phase.replace(' ', '[ _]')))
  await tab.shows(/claim\.granted|granted/)
  await tab.button('Show log').click()
  await tab.shows(/one of 12 tests failed/, tab.dialog)
  await tab.page.keyboard.press('Escape')
  await tab.dialog.waitFor({ state: 'detached' })
})

scene('a todo that is not there says so', async (site) => {
  await app(site, ['one'])
  site.expects(/status of 404/)
  const tab = await site.tab({ place: '#/todos/app/nobody' })
  await tab.shows(/nobody/, tab.alert)
  await tab.at('#/nowhere', 'nowhere')
  await tab.shows(/no such page/i)
})

scene('worktrees are shown as git has them: changed, ahead, merged, locked, detached, missing, in the middle of a rebase', async (site) => {
  const repository = await app(site, ['one'])
  const at = (name) => site.path('people', name)
  const dirty = repository.worktree(at('dirty'))
  write(join(dirty, 'README.md'), 'changed\n')
  write(join(dirty, 'new.txt'), 'new\n')
  const ahead = repository.worktree(at('ahead'))
  write(join(ahead, 'ahead.txt'), 'x\n')
  commit(ahead, 'a step further')
  const merged = repository.worktree(at('merged'))
  write(join(merged, 'merged.txt'), 'x\n')
  commit(merged, 'a part of the base')
  repository.git('merge', '--quiet', 'merged')
  const locked = repository.worktree(at('locked'))
  repository.git('worktree', 'lock', '--reason', 'on the train', locked)
  repository.git('worktree', 'add', '--quiet', '--detach', at('loose'))
  const gone = repository.worktree(at('gone'))
  const rebased = repository.worktree(at('rebased'))
  write(join(rebased, 'README.md'), 'mine\n')
  commit(rebased, 'mine')
  repository.write('README.md', 'theirs\n')
  repository.commit('theirs')
  assert.throws(() => git(rebased, ['rebase', 'main']), /conflict/i)
  rmSync(gone, { recursive: true })
  await site.api.get('/worktrees?wait_ms=20000')
  const tab = await site.tab({ place: '#/worktrees?show=all' })
  await tab.view('worktrees')
  const shows = (name, pattern) => tab.shows(pattern, tab.row(`app/${name}`))
  await shows('dirty', /1 changed[\s\S]*1 new/)
  await shows('ahead', /a step further[\s\S]*↑1/)
  await shows('merged', /merged/)
  await shows('locked', /locked/)
  await shows('loose', /detached/)
  await shows('gone', /missing/)
  await shows('rebased', /rebase in progress/)
  await tab.row('app/ahead').getByRole('link').first().click()
  await tab.view('worktree')
  await tab.shows(/a step further/)
  await tab.at('#/worktrees/app/dirty', 'worktree')
  await tab.shows(/new\.txt/)
  await tab.shows(/README\.md/)
})

scene('sessions are shown with what is said in them, what waits first', async (site) => {
  const dir = site.path('agent-logs')
  await app(site, ['asks', 'works', 'ends'], { settings: { sessions: { stuck_after_ms: 600_000, log_dirs: [dir] } } })
  logs(site, 2)
  const { api } = site
  const works = await api.order('works', { worker: 'heron' })
  await api.report(works.claim.session, ['tool', 'make test'])
  await api.done(await api.order('ends'))
  const asks = await waiting(api, 'asks', 'Which colour?')
  const tab = await site.tab({ place: '#/sessions' })
  await tab.view('sessions')
  await tab.shows(/Which colour/, tab.row(asks.claim.session))
  await tab.shows(/heron[\s\S]*make test/, tab.row(works.claim.session))
  const first = tab.main.locator('[data-key]').first()
  assert.equal(await first.getAttribute('data-key'), asks.claim.session, 'who waits is first')
  await tab.shows(/0002/)
  await tab.at(`#/sessions/${encodeURIComponent(asks.claim.session)}`, 'session')
  await tab.shows(/reading[\s\S]*Which colour\?/)
  await tab.shows(/waits for a person/i)
})

scene('lanes show why they are paused and what failed how often', async (site) => {
  await app(site, ['f1', 'f2', 'f3', 'one'])
  const { api } = site
  await pausedByPerson(api, 'docs', 'Until the guide is written')
  await pausedByBreaker(api, 'flaky', ['f1', 'f2', 'f3'])
  await api.order('one')
  const tab = await site.tab({ place: '#/lanes' })
  await tab.view('lanes')
  await tab.shows(/paused[\s\S]*Until the guide is written/, tab.row('docs'))
  await tab.shows(/paused itself[\s\S]*registry/, tab.row('flaky'))
  await tab.shows(/open/, tab.row('builder'))
  await tab.shows(/3 ×/)
  await tab.at('#/lanes/flaky', 'lanes')
  await tab.row('flaky').waitFor()
  assert.equal(await tab.row('docs').count(), 0)
})

scene('a text is explained step by step until it is a fingerprint', async (site) => {
  await app(site, ['one'])
  const tab = await site.tab({ place: '#/lanes' })
  await tab.view('lanes')
  await tab.page.getByRole('textbox', { name: /words/i }).fill('cannot reach 10.0.0.7 after 31 tries')
  await tab.button('Explain').click()
  const { fingerprint } = (await site.api.post('/failures/explain', { text: 'cannot reach 10.0.0.7 after 31 tries' })).good
  await tab.shows(new RegExp(fingerprint))
})

scene('the system shows its verdict, jobs, actors, repositories and dumps', async (site) => {
  await app(site, ['one'])
  const hang = await hangDump(site.api)
  const tab = await site.tab({ place: '#/system' })
  await tab.view('system')
  for (const wanted of [/lease sweep/, /sustained backlog stall/, /main/, /by hand/, /repository/i]) await tab.shows(wanted)
  const actors = (await site.api.get('/actors')).good
  assert.ok(actors.length > 5)
  for (const { kind, name } of actors) await tab.main.locator(`[data-key="${kind}:${name}"]`).first().waitFor({ state: 'attached' })
  await tab.at(`#/system/hangs/${hang}`, 'hang')
  await tab.shows(/by hand/)
  await tab.shows(/threads/i)
})

scene('an operation that runs is shown with its phase, and leaves when it is over', async (site) => {
  const file = site.path('go-on')
  await app(site, ['slow'], { rules: { prepare: waitsFor(file) } })
  const id = await site.api.begin('slow', { worker: 'heron' })
  const tab = await site.tab()
  await tab.view('now')
  const cancel = tab.page.getByRole('button', { name: 'Cancel operation' })
  await tab.shows(/slow[\s\S]*prepare/, tab.main.locator('[data-key]').filter({ has: cancel }))
  write(file, '')
  assert.equal((await site.api.ended(id)).state, 'succeeded')
  await cancel.waitFor({ state: 'detached' })
})
