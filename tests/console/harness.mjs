// What every test stands on: a temporary directory with real git repositories, a real daemon, and a real browser.
// Everything is gone at the end, also when a test fails or is stopped.

import { after, test } from 'node:test'
import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Browser, Tab } from './browser.mjs'
import { Daemon } from './daemon.mjs'
import { Repository } from './repository.mjs'

export { until, PATIENCE_MS } from './waiting.mjs'
export { git, commit, write, lines, Repository } from './repository.mjs'
export { Tab } from './browser.mjs'

/** How long one test may take, in milliseconds. */
const TEST_MS = 120_000
/** How long a tab that does not answer is waited for, in milliseconds. */
const ANSWER_MS = 5_000
/** Lines of the daemon's log that are shown when a test fails. */
const LOG_LINES = 20

// One directory for this process; what Chromium writes goes there, too.
const home = realpathSync(mkdtempSync(join(tmpdir(), 'slugline-console-')))
process.env.TMPDIR = home
const clear = () => rmSync(home, { recursive: true, force: true, maxRetries: 10 })
process.on('exit', clear)

let browser
let sites = 0

/** The browser of this process: launched once, closed when its tests are over. */
async function theBrowser() {
  browser ??= launch()
  return browser
}

async function launch() {
  const launched = await Browser.launch()
  // Behind what ends Chromium, which writes there as long as it lives.
  process.off('exit', clear).on('exit', clear)
  return launched
}

after(async () => {
  if (browser) await (await browser).close()
})

/** A place of its own: repositories, a daemon, people with tabs. */
export class Site {
  constructor() {
    this.dir = join(home, `s${(sites += 1)}`)
    this.tabs = []
    this.people = []
    this.daemons = []
    this.expected = []
  }

  path(...names) {
    return join(this.dir, ...names)
  }

  /** A repository with these todos, settings and files; see `Repository.with`. */
  repository(name, options) {
    return Repository.with(this.path(name), options)
  }

  /** A daemon on these repositories; see `configuration` for its settings. */
  async start(repositories, { settings = {}, ...more } = {}) {
    const registered = repositories.map((repository) => ({ name: repository.name, path: repository.path, base: 'main', ...repository.registration }))
    this.daemon = await Daemon.start({ dir: this.path('daemon'), repositories: registered, settings: { log: { level: 'warn' }, ...settings }, ...more })
    this.daemons.push(this.daemon)
    this.api = this.daemon.client
    return this.daemon
  }

  /** A person of their own, with nothing remembered. */
  async person(options) {
    const context = await (await theBrowser()).person(options)
    this.people.push(context)
    return context
  }

  /** A tab; of a new person when none is given. Signed in and at a place unless told otherwise. */
  async tab({ person, place, signedIn = true, ...options } = {}) {
    const context = person ?? (await this.person(options))
    const tab = await Tab.open(await theBrowser(), context, this.daemon)
    this.tabs.push(tab)
    if (signedIn) await tab.signIn(place)
    return tab
  }

  /** Another tab of a person who is signed in already. */
  async another(tab, place = '') {
    const other = await this.tab({ person: tab.context, signedIn: false })
    await other.go(place)
    return other
  }

  /** From now on these complaints of pages are what a test wants; the browser says so of every answer that is a problem. */
  expects(...patterns) {
    this.expected.push(...patterns)
  }

  /** What pages and workers complained of and nobody expected. */
  async complaints() {
    const all = [...this.tabs.flatMap((tab) => tab.complaints), ...(browser ? (await browser).complaints : [])]
    return all.filter((each) => !this.expected.some((pattern) => pattern.test(each)))
  }

  /** What one wants to know when a test failed. */
  async evidence() {
    const shown = await Promise.all(
      this.tabs.map(async ({ page }) => {
        if (!(await answers(page))) return `${page.url()} does not answer`
        try {
          const { live, signed } = await page.evaluate(() => ({ ...document.body.dataset }))
          const file = process.env.CONSOLE_TEST_PICTURES && join(process.env.CONSOLE_TEST_PICTURES, `${Date.now()}.png`)
          if (file) await page.screenshot({ path: file })
          return `${page.url()} (live: ${live}, signed: ${signed})${file ? ` ${file}` : ''}\n${(await page.innerText('body')).slice(0, 3_000)}`
        } catch (error) {
          return `${page.url()}: ${error.message}`
        }
      }),
    )
    const log = this.daemon?.log.trim().split('\n').slice(-LOG_LINES).join('\n')
    return [...shown.map((each) => `-- a tab: ${each}`), ...(await this.complaints()), log && `-- the daemon's log: ${log}`].filter(Boolean).join('\n')
  }

  /** Ends everything that is of this place. */
  async close() {
    await Promise.all(this.people.map((context) => context.close().catch(() => {})))
    await Promise.all(this.daemons.map((daemon) => daemon.kill()))
    if (browser) (await browser).complaints.length = 0
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** Whether a page answers at all. */
function answers(page) {
  const asked = page.evaluate(() => true).catch(() => false)
  return Promise.race([asked, new Promise((resolve) => setTimeout(resolve, ANSWER_MS, false).unref())])
}

/** One test with a place of its own. It fails, too, when a page complained of something nobody expected. */
export function scene(sentence, body) {
  test(sentence, { timeout: TEST_MS }, async (t) => {
    const site = new Site()
    try {
      await body(site, t)
      const complaints = await site.complaints()
      if (complaints.length) throw new Error(`pages complain:\n${complaints.join('\n')}`)
    } catch (error) {
      process.stderr.write(`-- ${sentence}\n${await site.evidence()}\n`)
      throw error
    } finally {
      await site.close()
    }
  })
}
