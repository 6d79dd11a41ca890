#!/usr/bin/env node
// A daemon with a day's work in it, for pictures and for looking at the console: three repositories, nine workers, what
// they did since this morning, and what is going on now.
//
// The day is really worked through, within a minute: the daemon runs with libfaketime, which reads from a file how far
// its wall clock is behind, and this program moves it on. In the end the daemon is started once more without it.
//
//   node tests/console/day.mjs              leaves the daemon running, and prints address, token and how to end it
//   node tests/console/day.mjs --live       goes on working in it until interrupted, and clears everything away then
//   node tests/console/day.mjs --port 7600  on this port

import { appendFileSync, existsSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Daemon } from './daemon.mjs'
import { commit, git, Repository, write } from './repository.mjs'
import { until } from './waiting.mjs'
import { CHORES, FINDINGS, OUTAGES, QUESTIONS, REASONS, RED, REPOSITORIES, SAYINGS, WAITS, WORKERS } from './world.mjs'

const MINUTE_MS = 60_000
/** How long ago the day began, and how far its clock is moved at once. */
const DAY_MINUTES = 570
const STEP_MINUTES = 5
/** When what happens at a time of its own happens, in minutes before now. */
const AT = { mirrorFails: 510, mirrorMended: 465, lunchBegins: 300, lunchEnds: 260, reviewersRest: 200, stylesMissing: 90, dumps: [401, 122] }
/** From now on it goes by `finale`. */
const LAST_CALL = 35
/** How likely it is that somebody without work asks for some within one step. */
const EAGER = { builder: 0.13, docs: 0.1, reviewer: 0.8, mender: 1 }
/** How long nothing may come of a claim until its session is stuck: what stands still in this day does so for a minute. */
const STUCK_MS = 60_000
/** How often something happens in a day that goes on, in milliseconds. */
const LIVE_MS = 4_000

/** The same day every time. */
function chance(seed) {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return { next, under: (limit) => Math.floor(next() * limit), one: (list) => list[Math.floor(next() * list.length)], luck: (share) => next() < share }
}

/** The library that moves the clock; `faketime` is the package that has it. */
function libfaketime() {
  const roots = ['/usr/lib', '/usr/lib64', '/usr/local/lib'].filter((root) => existsSync(root))
  const dirs = roots.flatMap((root) => [root, ...readdirSync(root).map((name) => join(root, name))])
  const found = dirs.map((dir) => join(dir, 'faketime/libfaketime.so.1')).find((path) => existsSync(path))
  if (!found) throw new Error('libfaketime is needed and not installed: apt-get install faketime')
  return found
}

export class Day {
  /** Works through a day below a directory, on a port; gives it with its daemon running. */
  static async make(dir, { port = 0, say = () => {} } = {}) {
    const day = new Day()
    Object.assign(day, { dir, say, random: chance(7), behind: DAY_MINUTES, jobs: new Map(), turns: 0, merged: [], reds: 0 })
    await day.begin(port)
    for (; day.behind > LAST_CALL; day.behind -= STEP_MINUTES) await day.step()
    await day.finale()
    return day
  }

  path(...names) {
    return join(this.dir, ...names)
  }

  /** When it is in the day, as the daemon sees it. */
  get now() {
    return Date.now() - this.behind * MINUTE_MS
  }

  /** Moves the daemon's clock to so many minutes before now. */
  to(behind) {
    this.behind = behind
    writeFileSync(this.path('behind'), `-${Math.round(behind * 60)}\n`)
  }

  repository(name) {
    return this.repositories.find((repository) => repository.name === name)
  }

  async begin(port) {
    this.say('making three repositories')
    this.repositories = REPOSITORIES.map((words) => this.found(words))
    this.people()
    this.to(DAY_MINUTES)
    const env = { LD_PRELOAD: libfaketime(), FAKETIME_TIMESTAMP_FILE: this.path('behind'), FAKETIME_NO_CACHE: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1', DONT_FAKE_MONOTONIC: '1', NO_FAKE_STAT: '1', HOME: this.dir }
    // A day's minutes pass in milliseconds: what waits for time is told not to.
    const hurried = { ...this.options(), settings: { ...this.options().settings, attempts: { backoff_min_ms: 0, backoff_max_ms: 0 }, jobs: { readiness_every_ms: 250 }, readiness: { min_span_ms: 0 } } }
    this.daemon = await Daemon.start({ dir: this.path('daemon'), env, ...hurried })
    if (port) {
      await this.daemon.stop()
      await this.daemon.spawn(`127.0.0.1:${port}`)
    }
    this.api = this.daemon.client
    this.workers = WORKERS.map(([name, lane]) => ({ name, lane }))
    this.say(`working through ${Math.round(DAY_MINUTES / 60)} hours`)
  }

  options() {
    const repositories = this.repositories.map(({ name, path }) => ({ name, path, base: 'main' }))
    const settings = { log: { level: 'warn' }, lease: { duration_ms: 10_800_000 }, sessions: { log_dirs: [this.path('agent-logs')], stuck_after_ms: STUCK_MS }, lanes: { wip_limit: 0 } }
    return { repositories, top: { worktrees_dir: this.path('worktrees') }, settings, text: '[[lane]]\nname = "builder"\nwip_limit = 6\n\n[[lane]]\nname = "mender"\nwip_limit = 1\n' }
  }

  /** A repository with a week of history before this day. */
  found(words) {
    const day = (days) => Date.now() - days * 24 * 60 * MINUTE_MS
    const repository = Repository.with(this.path(words.name), { ...words, at: day(9), subject: `${words.name}: begin here` })
    const subjects = ['Say how to build it', 'A check for each pull request', 'The first page', 'Names of things', 'Fewer packages']
    subjects.forEach((subject, number) => {
      repository.write('README.md', `# ${words.name}\n\n${subject}.\n`)
      repository.commit(subject, { at: day(8 - number * 1.4), author: number % 2 ? 'Ada' : 'Noor' })
    })
    return repository
  }

  /** What people have beside the daemon's worktrees: every state one can find a worktree in. */
  people() {
    const hours = (number) => Date.now() - number * 60 * MINUTE_MS
    const [storefront, payments, atlas] = this.repositories
    const at = (name) => this.path('people', name)
    const change = (dir, file, subject, ago, author = 'Ada') => {
      write(join(dir, file), `${subject}\n`)
      commit(dir, subject, { at: hours(ago), author })
    }

    const bare = this.path('storefront.git')
    git(this.dir, ['clone', '--quiet', '--bare', storefront.path, bare])
    storefront.git('remote', 'add', 'origin', bare)
    storefront.git('fetch', '--quiet', 'origin')

    const spike = storefront.worktree(at('spike-checkout'))
    change(spike, 'src/checkout/steps.ts', 'Try: all steps on one page', 20)
    git(spike, ['push', '--quiet', '--set-upstream', 'origin', 'spike-checkout'])
    change(spike, 'src/checkout/address.ts', 'Try: the address comes first', 4)
    write(join(spike, 'src/checkout/steps.ts'), 'not yet\n')
    write(join(spike, 'src/checkout/summary.ts'), 'new\n')
    write(join(spike, 'notes.txt'), 'ask support about returns\n')
    git(spike, ['add', 'src/checkout/summary.ts'])

    const hotfix = storefront.worktree(at('hotfix-price'))
    change(hotfix, 'src/cart/total.ts', 'Round the total, not the lines', 3, 'Noor')
    change(hotfix, 'src/cart/total.spec.ts', 'A test for 19.99 times three', 2.5, 'Noor')

    const release = storefront.worktree(at('release-11.2'))
    change(release, 'CHANGELOG.md', 'Release 11.2', 70)
    storefront.git('worktree', 'lock', '--reason', 'kept for the release until Monday', release)

    const bisect = at('bisect-cart')
    storefront.git('worktree', 'add', '--quiet', '--detach', bisect, 'HEAD~3')

    const gone = storefront.worktree(at('usb-demo'))
    rmSync(gone, { recursive: true })

    const rebase = storefront.worktree(at('rebase-coupons'))
    change(rebase, 'src/coupons.ts', 'Coupons know their campaign', 30)
    storefront.write('src/coupons.ts', 'Coupons have an end\n')
    storefront.commit('Coupons have an end', { at: hours(26), author: 'Noor' })
    try {
      git(rebase, ['rebase', 'main'], { at: hours(1) })
    } catch {
      // It stops at the conflict: that is what it is for.
    }

    const audit = payments.worktree(at('audit-2026'))
    change(audit, 'docs/audit.md', 'What the auditors asked', 50, 'Noor')
    const vault = payments.worktree(at('vault-spike'))
    change(vault, 'src/ledger.rs', 'Try: keys beside the ledger', 28)
    payments.write('src/ledger.rs', '// every posting has two sides and a clock\n')
    payments.commit('Postings have a clock', { at: hours(24), author: 'Noor' })
    try {
      git(vault, ['merge', '--quiet', 'main'], { at: hours(5) })
    } catch {
      // The same of a merge.
    }

    const tiles = atlas.worktree(at('tiles-v2'))
    change(tiles, 'src/tiles.ts', 'Tiles of the second format', 90)
    const coast = atlas.worktree(at('coastline'))
    change(coast, 'data/coast.md', 'Where the coastline comes from', 60, 'Noor')
    atlas.git('merge', '--quiet', '--squash', 'coastline')
    atlas.commit('Where the coastline comes from', { at: hours(40), author: 'Noor' })
  }

  /** Five minutes of the day. */
  async step() {
    this.to(this.behind)
    this.turns += 1
    const at = (minutes) => this.behind <= minutes && this.behind > minutes - STEP_MINUTES
    if (at(AT.mirrorFails)) await this.outage('builder')
    if (at(AT.mirrorMended)) await this.reopen('builder')
    if (at(AT.lunchBegins)) await this.api.pause('reviewer', 'What a review has to look at is being written down; back after lunch.')
    if (at(AT.lunchEnds)) await this.reopen('reviewer')
    if (at(AT.reviewersRest)) await this.rest('reviewer')
    if (at(AT.stylesMissing)) await this.outage('docs')
    if (AT.dumps.some(at)) await this.api.post('/debug/hang-dump')
    for (const worker of this.workers) await this.turn(worker)
    if (this.turns % 4 === 0) await this.integrate()
    if (this.turns % 13 === 0) this.chore()
    if (this.turns % 5 === 0) this.writeLog()
  }

  /** What one worker does in five minutes. */
  async turn(worker) {
    const job = this.jobs.get(worker.name)
    if (!job) return this.ask(worker)
    job.left -= 1
    if (job.left > 0) return this.goOn(job)
    this.jobs.delete(worker.name)
    return this.finish(worker, job)
  }

  /** Asks for work that is for the lane; some of the time somebody sits idle first. */
  async ask(worker) {
    if (this.random.luck(EAGER[worker.lane])) await this.find(worker)
  }

  /** Takes the first todo there is to have, in one repository after the other. */
  async find(worker) {
    if ((await this.api.lane(worker.lane))?.state === 'paused') return
    const fits = {
      reviewer: ({ stage }) => stage === 'review',
      mender: ({ slug, stage }) => slug.startsWith('mend-') && stage === 'build',
      other: ({ stage, lane }) => lane === worker.lane && ['build', 'fix'].includes(stage),
    }
    const fit = fits[worker.lane] ?? fits.other
    const fresh = ({ stage, lane, slug }) => stage === 'ready' && (worker.lane === 'mender' ? slug.startsWith('mend-') : lane === worker.lane)
    const all = (await this.api.get('/todos')).good.filter((todo) => !todo.claim && !todo.fault)
    const begin = this.random.under(3)
    const turns = REPOSITORIES.map((_, at) => REPOSITORIES[(begin + at) % REPOSITORIES.length].name)
    const offers = [...all.filter(fit), ...turns.flatMap((name) => all.filter((todo) => todo.repo === name && fresh(todo)))]
    for (const { repo, slug, worktree } of offers) {
      if (worktree) this.update(worktree, worker.name)
      const answer = await this.api.work({ lane: worker.lane, worker: worker.name, repo, slug })
      if (answer.status === 200 && answer.body.claim) return this.take(worker, answer.body)
    }
  }

  async take(worker, order) {
    const probing = (await this.api.lane(worker.lane)).state !== 'open'
    const short = order.stage === 'review' || order.slug === '3ds-challenge'
    const length = probing ? 2 : short ? 2 + this.random.under(3) : 6 + this.random.under(9)
    this.jobs.set(worker.name, { order, left: length, said: this.random.under(3) })
    await this.speak(order, ['plan', `Took ${order.slug} at the stage ${order.stage}.`])
  }

  /** Says something, and now and then commits something. */
  async goOn(job) {
    const { order } = job
    const saying = SAYINGS[job.said % SAYINGS.length]
    job.said += 1
    await this.speak(order, [saying[0], saying[1].replaceAll('{}', order.slug)])
    await this.api.heartbeat(order, saying[1].replaceAll('{}', order.slug))
    if (saying[0] === 'edit' && order.stage !== 'review') this.build(order, `${order.slug}: ${['first cut', 'empty lists', 'what errors say'][job.said % 3]}`)
  }

  speak(order, ...events) {
    return this.api.report(order.claim.session, ...events)
  }

  /** A commit of an agent in its worktree. */
  build(order, subject, files = {}) {
    const dir = order.worktree.path
    write(join(dir, `src/${order.slug}/index`), `${subject} ${this.behind}\n`)
    for (const [file, text] of Object.entries(files)) write(join(dir, file), text)
    commit(dir, subject, { at: this.now, author: order.claim.worker })
  }

  /** Brings the base into a branch, as an agent would before it says that it is done; the daemon would do it now. */
  update(dir, author) {
    git(dir, ['merge', '--quiet', '--no-edit', 'main'], { at: this.now, author })
  }

  async finish(worker, { order }) {
    const { repo, slug, stage } = order
    this.update(order.worktree.path, worker.name)
    if (stage === 'review') {
      const well = this.random.luck(0.75)
      const said = well ? { review: 'approved', summary: 'Reads well, and the tests fail without it.' } : { review: 'changes_requested', findings: this.random.one(FINDINGS) }
      await this.speak(order, ['note', well ? 'Approved.' : said.findings])
      return this.api.done(order, said)
    }
    // A lane that is opening again is closed by the next failure: nothing fails there.
    const open = (await this.api.lane(worker.lane)).state === 'open'
    if (slug === '3ds-challenge' && !open) return this.api.release(order)
    if (slug === '3ds-challenge') return this.api.failed(order, REASONS[(order.claim.token - 1) % REASONS.length])
    if (slug === 'search-typo-tolerance') return this.api.blocked(order, 'Needs a decision: in which languages does search forgive typing errors?')
    if (this.random.luck(0.08)) return this.api.release(order)
    const gates = Object.keys(RED).filter((gate) => this.gates(repo).includes(gate))
    if (open && gates.length && worker.lane === 'builder' && this.random.luck(0.35)) {
      // Red at first, and mended ten minutes later.
      const gate = gates[this.reds++ % gates.length]
      this.build(order, `${slug}: ready`, { [`tests/${gate}.fails`]: RED[gate][this.reds % RED[gate].length] })
      await this.speak(order, ['tool', `${gate}: 1 failed`])
      await this.api.done(order)
      write(join(order.worktree.path, `tests/${gate}.fails`), '')
      commit(order.worktree.path, `${slug}: mend ${gate}`, { at: this.now + 4 * MINUTE_MS, author: worker.name })
      return this.jobs.set(worker.name, { order, left: 2, said: 7 })
    }
    this.build(order, `${slug}: done`)
    await this.speak(order, ['note', `Done: ${slug}.`])
    return (await this.api.done(order, { summary: `${slug} works, with tests.` })).good
  }

  gates(repo) {
    const { settings } = REPOSITORIES.find((each) => each.name === repo)
    return [...settings.matchAll(/name = "(\w+)"/g)].map((found) => found[1])
  }

  /** One failure in three wordings, until the lane pauses itself. */
  async outage(lane) {
    for (const reason of OUTAGES[lane]) {
      const [name, job] = [...this.jobs].find(([each]) => this.lane(each) === lane) ?? []
      if (job) this.jobs.delete(name)
      const worker = WORKERS.find(([, of]) => of === lane)[0]
      let order = job?.order ?? (await this.api.work({ lane, worker })).body
      if (!order.claim) {
        await this.api.post('/todos/atlas', { slug: 'docs-broken-links', lane: 'docs', brief: 'Links that lead nowhere.\n' })
        order = (await this.api.work({ lane, worker, repo: 'atlas', slug: 'docs-broken-links' })).body
      }
      if (order.claim) await this.api.failed(order, reason)
    }
    await until(`${lane} to pause itself`, async () => (await this.api.lane(lane))?.state === 'paused')
    await until('an incident', async () => (await this.api.get('/incidents')).good.some((incident) => incident.state !== 'resolved'))
  }

  lane(name) {
    return WORKERS.find(([worker]) => worker === name)[1]
  }

  async reopen(lane) {
    await this.api.resume(lane)
  }

  /** The provider has no room: the lane rests by itself. */
  async rest(lane) {
    const [name, job] = [...this.jobs].find(([each]) => this.lane(each) === lane) ?? []
    if (!job) return
    this.jobs.delete(name)
    await this.api.failed(job.order, 'the model provider answers 529: overloaded, try again later')
    this.resting = lane
  }

  /** People bring what is approved onto the base, and clear away what was brought there earlier. */
  async integrate() {
    for (const { repo, slug } of this.merged.splice(0)) if (this.random.luck(0.6)) await this.api.delete(`/worktrees/${repo}/${slug}`)
    if (this.resting) await this.reopen(this.resting)
    this.resting = undefined
    const waiting = (await this.api.get('/todos?stage=integrate')).good
    for (const { repo, slug } of waiting.slice(0, 2)) {
      const repository = this.repository(repo)
      git(repository.path, ['merge', '--quiet', '--no-ff', '--message', `Merge ${slug}`, slug], { at: this.now, author: 'Ada' })
      this.merged.push({ repo, slug })
    }
  }

  chore() {
    const [repo, subject] = CHORES[(this.turns / 13 - 1) % CHORES.length]
    const repository = this.repository(repo)
    repository.write(`notes/${this.turns}.md`, `${subject}\n`)
    repository.commit(subject, { at: this.now, author: this.random.one(['Ada', 'Noor']) })
  }

  /** A log an agent writes by itself, without having asked for work; it is over, or goes on. */
  writeLog(over = true) {
    const repository = this.random.one(this.repositories)
    const topic = ['why the cart is slow', 'flaky tests of last night', 'a newer compiler', 'which queries have no index', 'reading the logs of the outage'][this.turns % 5]
    const line = (minutes, type, text) => JSON.stringify({ timestamp: new Date(this.now + minutes * MINUTE_MS).toISOString(), type, cwd: repository.path, text })
    const texts = [
      line(0, 'user', `Look into ${topic}.`),
      line(0.4, 'assistant', `Looking into ${topic}: first what changed since it was well.`),
      line(1.2, 'tool', 'git log --oneline --since=yesterday | head'),
      line(3.1, 'assistant', `Three things stand out in ${topic}; the second explains the numbers.`),
      ...(over ? [this.turns % 15 ? line(4.5, 'result', 'Written up in notes.') : '{"timestamp": "torn'] : []),
    ]
    this.agentLog = this.path('agent-logs', repository.name, `${String(this.turns).padStart(3, '0')}-${topic.replaceAll(' ', '-')}.jsonl`)
    write(this.agentLog, `${texts.join('\n')}\n`)
  }

  /** The last half hour: whoever has nothing takes something, so that each of them is at work. */
  async finale() {
    this.say('the last half hour')
    await this.handOver()
    for (const worker of this.workers) if (!this.jobs.has(worker.name)) await this.find(worker)
    for (this.behind = LAST_CALL - STEP_MINUTES; this.behind > 0; this.behind -= STEP_MINUTES) {
      this.to(this.behind)
      this.turns += 1
      for (const job of this.jobs.values()) await this.goOn(job)
      this.writeLog()
    }
    await this.present()
  }

  /** Three builds come to their review at once: one is sent back, one is being read, one waits. */
  async handOver() {
    const builds = [...this.jobs].filter(([, { order }]) => order.repo !== 'atlas' && order.stage === 'build').slice(0, 3)
    for (const [name, { order }] of builds) {
      this.jobs.delete(name)
      this.update(order.worktree.path, name)
      this.build(order, `${order.slug}: done`)
      await this.api.done(order, { summary: `${order.slug} works, with tests.` })
    }
    for (const [name, job] of [...this.jobs].filter(([each]) => this.lane(each) === 'reviewer')) {
      this.jobs.delete(name)
      await this.api.done(job.order, { review: 'approved', summary: 'Reads well.' })
    }
    const [owl, ibis] = ['owl', 'ibis'].map((name) => this.workers.find((worker) => worker.name === name))
    await this.find(owl)
    await this.find(ibis)
    const read = this.jobs.get('owl')
    if (read) {
      this.jobs.delete('owl')
      await this.api.done(read.order, { review: 'changes_requested', findings: FINDINGS[1] })
    }
  }

  /** The daemon as one has it, on the day's data; with one gate that takes its time. */
  async present() {
    this.to(0)
    await this.daemon.stop()
    this.daemon.configure(this.options())
    this.daemon.env = { HOME: this.dir }
    await this.daemon.again()
    this.api = this.daemon.client
    this.writeLog(false)
    await this.words('wren', 'tool', 'test --run: still running after 240 s')
    const [kestrel, swift] = ['kestrel', 'swift'].map((name) => this.jobs.get(name)?.order)
    if (kestrel) await this.speak(kestrel, ['question', QUESTIONS[kestrel.repo]])
    if (swift) await this.api.hold(swift, { for_ms: 3_600_000, why: WAITS[swift.repo] })
    const heron = await this.words('heron', 'tool', 'test: 48 passed, 1 failed')
    if (heron) {
      // One gate that takes its time.
      const { repo, slug, worktree } = heron.order
      write(this.path(`hold-${this.gates(repo).at(-1)}`), '')
      commit(worktree.path, `${slug}: the last test`, { author: 'heron' })
      await this.api.begin(slug, { repo, worker: 'heron' })
    }
    await this.api.get('/worktrees?wait_ms=10000')
    await until('the verdict', async () => (await this.api.get('/readiness')).good.verdict !== 'UNKNOWN')
    this.say('waiting until one of them is stuck')
    const wren = this.jobs.get('wren')
    const stuck = async () => {
      await this.live()
      return !wren || (await this.api.session(wren.order.claim.session)).status === 'stuck'
    }
    await until('a session to be stuck', stuck, 2 * STUCK_MS)
  }

  /** What one says now, if it has work. */
  async words(name, ...event) {
    const job = this.jobs.get(name)
    if (job) await this.speak(job.order, event)
    return job
  }

  /** Those who are at it say something, each in its turn, and somebody edits a file. */
  async live() {
    if (performance.now() - (this.lived ?? -LIVE_MS) < LIVE_MS) return
    this.lived = performance.now()
    this.turns += 1
    const quiet = ['wren', 'kestrel', 'swift']
    const busy = [...this.jobs].filter(([name]) => !quiet.includes(name))
    if (busy.length) await this.goOn(busy[this.turns % busy.length][1])
    const line = { timestamp: new Date().toISOString(), type: 'assistant', text: SAYINGS[this.turns % SAYINGS.length][1].replaceAll('{}', 'the cart') }
    appendFileSync(this.agentLog, `${JSON.stringify(line)}\n`)
    if (this.turns % 5 === 0) write(join(this.path('people/spike-checkout'), `notes-${this.turns % 3}.txt`), `${this.turns}\n`)
  }

  /** The day goes on, until told to stop. */
  async goOnLiving(signal) {
    while (!signal.aborted) {
      await this.live()
      await pause(LIVE_MS, undefined, { signal }).catch(() => {})
    }
  }
}

async function main() {
  const { values } = parseArgs({ options: { live: { type: 'boolean' }, port: { type: 'string' } } })
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'slugline-day-')))
  const say = (text) => process.stderr.write(`day: ${text}\n`)
  const clear = () => rmSync(dir, { recursive: true, force: true, maxRetries: 10 })
  process.on('exit', clear)
  const day = await Day.make(dir, { port: Number(values.port ?? 0), say })
  const { address, data, pid } = day.daemon
  process.stdout.write(`address ${address}\ntoken ${join(data, 'token')}\npid ${pid}\ndirectory ${dir}\n`)
  if (values.live) {
    const over = new AbortController()
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.removeAllListeners(signal).on(signal, () => over.abort())
    await day.goOnLiving(over.signal)
    await day.daemon.stop()
  } else {
    say(`it runs on; to end it: kill ${pid}; rm -r ${dir}`)
    day.daemon.leave()
    process.off('exit', clear)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main()
  process.exit(0)
}
