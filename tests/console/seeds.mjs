// States of a daemon, made as they come about: through its interface, by agents' logs, and by files of repositories.

import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { commit, until, write } from './harness.mjs'

/** Settings with which what takes minutes takes a moment. */
export const HURRIED = { sessions: { stuck_after_ms: 1_000 }, jobs: { readiness_every_ms: 100 }, readiness: { min_span_ms: 0 }, attempts: { backoff_min_ms: 0, backoff_max_ms: 0 } }

/** More room on disk than any machine has: with this in `[readiness]` a daemon is NO_GO. */
export const NO_ROOM = { disk_free_min_bytes: 9_000_000_000_000_000, min_span_ms: 0, fail_after: 1, pass_after: 1 }

/** A prepare and gates, each `[name, command]`, as `.slugline.toml` has them. */
export function rules({ prepare, gates = [], review = 'none' } = {}) {
  const text = JSON.stringify
  return [
    prepare && `[prepare]\ncommand = ${text(prepare)}\n`,
    `[todos]\nreview = "${review}"\n`,
    ...gates.map(([name, command]) => `[[gates]]\nname = "${name}"\ncommand = ${text(command)}\n`),
  ]
    .filter(Boolean)
    .join('\n')
}

/** A command that waits until a file is there: what runs for as long as a test wants. */
export const waitsFor = (file) => `echo waiting; while [ ! -e '${file}' ]; do sleep 0.05; done; echo gone on`

/** A person pauses a lane. */
export async function pausedByPerson(api, lane, reason = 'The style guide is being discussed') {
  return (await api.pause(lane, reason)).good
}

/** Three failures in a lane that are one: it pauses itself, and a todo to mend it is filed. */
export async function pausedByBreaker(api, lane, slugs, words = 'cannot reach the registry at 10.0.0.%: timed out') {
  for (const [number, slug] of slugs.entries()) {
    const order = await api.order(slug, { lane })
    ;(await api.failed(order, words.replace('%', number + 1))).good
  }
  return until(`lane ${lane} to pause itself`, async () => {
    const seen = await api.lane(lane)
    return seen.state === 'paused' && seen
  })
}

/** A todo whose gate is red: the claim lives on. Gives the order of work before that, and the problem. */
export async function failedGate(site, slug, body = {}) {
  const order = await site.api.order(slug, body)
  write(join(order.worktree.path, 'broken'), 'yes\n')
  commit(order.worktree.path, 'break it')
  return { order, problem: (await site.api.done(order)).problem('gate_failed') }
}

/** An agent says that it cannot go on without a person. */
export async function blocked(api, slug, reason = 'Which of the two designs is it?') {
  const order = await api.order(slug)
  return (await api.blocked(order, reason)).good
}

/** A todo that failed until its attempts were used up; each time in another way, so that no lane minds. */
export async function deadLetter(api, slug, lane = 'builder') {
  const words = ['the compiler has no memory', 'a fixture is missing', 'port is taken by somebody', 'the clock of the sandbox stands still', 'nobody answers the pager']
  for (const reason of words) (await api.failed(await api.order(slug, { lane }), reason)).good
  return api.todo('app', slug)
}

/** A session whose agent asked something. */
export async function waiting(api, slug, question = 'Which colour?', body = {}) {
  const order = await api.order(slug, body)
  ;(await api.report(order.claim.session, ['note', 'reading'], ['question', question])).good
  return order
}

/** A session nothing comes of, with `stuck_after_ms` as in `HURRIED`. */
export async function stuck(api, slug, body = {}) {
  const order = await api.order(slug, body)
  ;(await api.report(order.claim.session, ['tool', 'make test'])).good
  await until(`${order.claim.session} to be stuck`, async () => (await api.session(order.claim.session)).status === 'stuck')
  return order
}

/** A dump of what is in flight; gives its id. */
export async function hangDump(api) {
  return (await api.post('/debug/hang-dump')).good.id
}

/** A repository whose base is gone: it cannot be served, and everything else can. */
export function unusable(site, name = 'broken') {
  const repository = site.repository(name, { todos: ['never'] })
  rmSync(join(repository.path, '.git'), { recursive: true })
  mkdirSync(join(repository.path, '.git'))
  return repository
}

/** As many logs that agents wrote themselves, each a session; newest last. Gives their directory. */
export function logs(site, count, { cwd, at = Date.now() - 3_600_000 } = {}) {
  const dir = site.path('agent-logs')
  for (let number = 1; number <= count; number += 1) {
    const begun = at + number * 1_000
    const line = (after, type, text) => `${JSON.stringify({ timestamp: new Date(begun + after).toISOString(), type, cwd, text })}\n`
    write(join(dir, `${String(number).padStart(4, '0')}.jsonl`), line(0, 'user', `look into number ${number}`) + line(400, 'assistant', `looked into number ${number}`) + line(900, 'result', 'written up'))
  }
  return dir
}

/** Everything at once, for whoever looks at pages: every kind of state in one small daemon. */
export async function furnish(site) {
  const gate = 'test ! -e broken || { echo "one of 12 tests failed"; exit 1; }'
  const lines = ['build', 'claimed', 'asks', 'quiet', 'red', 'wedged', 'lost', 'f1', 'f2', 'f3', 'free', 'running', 'finished']
  const app = site.repository('app', {
    todos: [...lines.map((slug) => ({ slug, lane: slug === 'free' ? 'docs' : undefined })), { slug: 'later', after: ['build'], priority: 3 }],
    settings: rules({ gates: [['test', gate], ['slow', `test ! -e slow || { ${waitsFor(site.path('go-on'))}; }`]] }),
  })
  const other = site.repository('other', { todos: ['theirs'] })
  const log = logs(site, 3, { cwd: app.path })
  await site.start([app, other, unusable(site)], { settings: { ...HURRIED, sessions: { ...HURRIED.sessions, log_dirs: [log] }, readiness: NO_ROOM } })
  const { api } = site
  const order = await api.order('claimed', { worker: 'heron' })
  await api.heartbeat(order, 'two of three steps')
  write(join(order.worktree.path, 'new.txt'), 'new\n')
  write(join(order.worktree.path, 'README.md'), 'changed\n')
  const red = await failedGate(site, 'red')
  await blocked(api, 'wedged')
  await deadLetter(api, 'lost', 'mender')
  await pausedByBreaker(api, 'flaky', ['f1', 'f2', 'f3'])
  await pausedByPerson(api, 'docs')
  const done = await api.order('finished')
  ;(await api.done(done, { summary: 'It is done.' })).good
  const asks = await waiting(api, 'asks', 'Which of the two colours?')
  const quiet = await stuck(api, 'quiet')
  const hang = await hangDump(api)
  const slow = await api.order('running', { worker: 'swift' })
  write(join(slow.worktree.path, 'slow'), '')
  commit(slow.worktree.path, 'take its time')
  const operation = await api.begin('running', { worker: 'swift' })
  await until('the slow gate to run', async () => (await api.operation(operation)).phase === 'gates')
  await until('NO_GO', async () => (await api.get('/readiness')).good.verdict === 'NO_GO')
  await api.get('/worktrees?wait_ms=20000')
  return { app, other, order, red, asks, quiet, hang, operation }
}

/** What must never be more than text. Whatever of it runs sets `globalThis.taken`. */
export const HOSTILE = {
  script: '<script>globalThis.taken = 1</script>',
  image: '<img src=x onerror="globalThis.taken = 2">',
  svg: '"><svg onload="globalThis.taken = 3"><a href="javascript:globalThis.taken=4">x</a></svg>',
  link: 'javascript:globalThis.taken=5',
  template: '${globalThis.taken=6}{{constructor.constructor("globalThis.taken=7")()}}',
  override: 'paid \u202e000,1$ to nobody',
  isolate: '\u2067nothing closes this',
  hebrew: '\u05e9\u05dc\u05d5\u05dd, this is <b>Hebrew</b>',
  controls: 'bell \u0007 escape \u001b[31m nul \u0000 delete \u007f next line \u0085',
  separators: 'line \u2028 paragraph \u2029 no width \u200b\u200d joined',
}

/** All of it in a line. */
export const HOSTILE_LINE = Object.values(HOSTILE).join(' ')

/** A daemon in which everything people and agents can write is hostile. */
export async function hostile(site) {
  const words = { ...HOSTILE, all: HOSTILE_LINE }
  const plain = HOSTILE_LINE.replaceAll('\u0000', '')
  const app = site.repository('app', {
    todos: ['one', 'two', 'red', 'stop', 'held'],
    settings: rules({ gates: [['test', `test ! -e broken || { cat broken; exit 1; }`]] }),
  })
  const branch = 'x<img/src=x/onerror=globalThis.taken=8>'
  const path = site.path('people', '<img src=x onerror=globalThis.taken=9>')
  app.git('worktree', 'add', '--quiet', '-b', branch, path)
  write(join(path, '<script>globalThis.taken=10<'), 'x\n')
  write(join(path, `rtl\u202etxt.exe`), 'x\n')
  commit(path, plain, { author: `A <${HOSTILE.override}` })
  write(join(path, '"><img src=x onerror=globalThis.taken=11>.txt'), 'x\n')
  const log = site.path('agent-logs')
  const line = (text, more = {}) => `${JSON.stringify({ timestamp: new Date().toISOString(), type: HOSTILE.script.slice(0, 60), cwd: app.path, text, ...more })}\n`
  write(join(log, `hostile${HOSTILE.image.replaceAll('/', '')}.jsonl`), [line(HOSTILE_LINE), line('x'.repeat(1_000_000)), `${HOSTILE_LINE}\n`, '\u0000\u0001\n', line(HOSTILE.override)].join(''))
  await site.start([app], { settings: { ...HURRIED, sessions: { log_dirs: [log], stuck_after_ms: 600_000 } } })
  const { api } = site
  const one = await api.order('one')
  await api.heartbeat(one, plain)
  for (const text of [...Object.values(words), 'w'.repeat(8_192), `${'<b>'.repeat(2_730)}`]) await api.report(one.claim.session, ['note', text, { said: text.slice(0, 1_000), [HOSTILE.image]: 1 }])
  await api.report(one.claim.session, ['question', HOSTILE_LINE])
  const two = await api.order('two')
  await api.failed(two, plain)
  const red = await api.order('red')
  write(join(red.worktree.path, 'broken'), `${plain}\n`)
  commit(red.worktree.path, plain)
  await api.done(red)
  await api.blocked(await api.order('stop'), plain)
  const held = await api.order('held', { worker: 'other', lane: 'other' })
  await api.hold(held, { for_ms: 60_000, why: plain })
  await api.post('/todos/app', { slug: 'filed', brief: plain })
  await api.pause('docs', plain)
  return { app, session: one.claim.session, name: (await api.get('/worktrees?wait_ms=10000')).good.find((row) => row.branch === branch).name }
}

