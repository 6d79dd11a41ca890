// A real Chromium, and what a test may do with one of its tabs. Whatever a page or its worker complains of is gathered:
// errors, what the content security policy refused, requests to anywhere else, dialogs of the browser.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { until } from './waiting.mjs'

/** How long one act or look of Playwright may take, in milliseconds. */
const ACT_MS = 8_000
/** How long a page asks nothing before it is taken to know all it wants, in milliseconds. */
const QUIET_MS = 60
/** What is looked at when nobody says otherwise. */
const VIEWPORT = { width: 1280, height: 800 }

const beside = (name) => fileURLToPath(new URL(name, import.meta.url))
const ask = (script) => execFileSync(beside(script), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim()

/** Where the packages are; `run` says so, and whoever starts a file by itself asks for it. */
const packages = (process.env.CONSOLE_TEST_PACKAGES ||= ask('packages'))
const installed = createRequire(join(packages, 'package.json'))
const { chromium } = installed('playwright-core')

/** Words of Chromium about something that is neither the page's fault nor anybody's. */
const NOISE = [/^Autofocus processing was blocked/]

export class Browser {
  static async launch() {
    const browser = new Browser()
    browser.complaints = []
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM || ask('chromium'),
      headless: true,
      // Whoever is told to stop ends, and Chromium with it.
      handleSIGINT: false,
      handleSIGTERM: false,
      handleSIGHUP: false,
      // Everything in view at its size: no scroll bars that come and go, no fonts that differ by machine.
      args: ['--font-render-hinting=none', '--disable-lcd-text'],
    })
    await browser.listenToWorkers()
    return browser
  }

  close() {
    return this.chromium.close()
  }

  /** Playwright shows no shared workers, so their complaints are asked for where Chromium keeps them. */
  async listenToWorkers() {
    const session = await this.chromium.newBrowserCDPSession()
    let asked = 0
    const tell = (sessionId, method) => session.send('Target.sendMessageToTarget', { sessionId, message: JSON.stringify({ id: (asked += 1), method }) })
    session.on('Target.targetCreated', async ({ targetInfo }) => {
      if (targetInfo.type !== 'shared_worker') return
      try {
        const { sessionId } = await session.send('Target.attachToTarget', { targetId: targetInfo.targetId, flatten: false })
        for (const method of ['Runtime.enable', 'Log.enable']) await tell(sessionId, method)
      } catch {
        // It is gone already.
      }
    })
    session.on('Target.receivedMessageFromTarget', ({ sessionId, message }) => {
      const { method, params } = JSON.parse(message)
      if (method === 'Runtime.exceptionThrown') this.complaints.push(`worker: ${params.exceptionDetails.exception?.description ?? params.exceptionDetails.text}`)
      if (method === 'Runtime.consoleAPICalled' && ['error', 'assert'].includes(params.type)) this.complaints.push(`worker: ${params.args.map((arg) => arg.value ?? arg.description).join(' ')}`)
      if (method === 'Log.entryAdded' && params.entry.level === 'error') this.complaints.push(`worker: ${params.entry.text} ${params.entry.url ?? ''}`)
      // Its last page was reloaded: Chromium made another, and lets it wait for whoever listened to the one before.
      if (method === 'Inspector.targetReloadedAfterCrash') tell(sessionId, 'Runtime.runIfWaitingForDebugger').catch(() => {})
    })
    await session.send('Target.setDiscoverTargets', { discover: true })
  }

  /** A new person: cookies, storage and worker of their own. */
  async person(options = {}) {
    const context = await this.chromium.newContext({ viewport: VIEWPORT, locale: 'en-GB', timezoneId: 'UTC', reducedMotion: 'reduce', ...options })
    context.setDefaultTimeout(ACT_MS)
    return context
  }
}

/** One tab with the console in it, or about to be. */
export class Tab {
  /** A tab of a person, for a daemon. */
  static async open(browser, context, daemon) {
    const tab = new Tab()
    tab.complaints = []
    tab.page = await context.newPage()
    tab.context = context
    tab.daemon = daemon
    tab.watch()
    return tab
  }

  watch() {
    this.asked = new Set()
    this.lastAsked = performance.now()
    this.page.on('request', (request) => {
      if (request.resourceType() !== 'fetch') return
      this.asked.add(request)
      this.lastAsked = performance.now()
    })
    for (const event of ['requestfinished', 'requestfailed']) this.page.on(event, (request) => this.asked.delete(request))
    const complain = (what) => this.complaints.push(what)
    this.page.on('console', (message) => {
      if (message.type() !== 'error' || NOISE.some((noise) => noise.test(message.text()))) return
      complain(`console: ${message.text()} ${message.location()?.url ?? ''}`)
    })
    this.page.on('pageerror', (error) => complain(`error: ${error.stack ?? error.message}`))
    this.page.on('crash', () => complain('the page crashed'))
    this.page.on('dialog', async (dialog) => {
      complain(`dialog: ${dialog.message()}`)
      await dialog.dismiss()
    })
    this.page.on('popup', () => complain('a window opened'))
    this.page.on('request', (request) => {
      const url = request.url()
      if (!url.startsWith(`${this.daemon.url}/`) && !url.startsWith('about:')) complain(`request: ${url}`)
    })
  }

  /** Goes to a place of the console, such as `#/todos`. */
  async go(place = '') {
    await this.page.goto(`${this.daemon.url}/console/${place}`)
  }

  /** Signs in by a link, as `slugline console` does, and goes on to a place. */
  async signIn(place) {
    const { url } = (await this.daemon.client.post('/console/links')).good
    await this.page.goto(url)
    await this.signed('in')
    if (place) await this.go(place)
  }

  /** Waits until the page says whether somebody is signed in. */
  signed(how) {
    return this.page.locator(`body[data-signed="${how}"]`).waitFor({ state: 'attached' })
  }

  /** Waits until the page says how its event stream is. */
  live(how = 'live', limitMs) {
    return this.page.locator(`body[data-live="${how}"]`).waitFor({ state: 'attached', timeout: limitMs })
  }

  /** Waits until a view is there with its first answer, and gives it. */
  async view(name) {
    const main = this.page.locator(`main[data-view="${name}"]:not([aria-busy="true"])`)
    await main.waitFor()
    return main
  }

  /** Waits until everything the page asked for has come, and it asks no more. */
  settled(quietMs = QUIET_MS) {
    return until('everything to have come', () => this.asked.size === 0 && performance.now() - this.lastAsked > quietMs)
  }

  /** Goes to a view and waits until it is there. */
  async at(place, view) {
    await this.go(place)
    return this.view(view)
  }

  get main() {
    return this.page.locator('main')
  }

  /** The row, card or cell with this key. */
  row(key) {
    return this.page.locator(`main [data-key="${key}"]`).first()
  }

  button(name, within = this.page.locator('main')) {
    return within.getByRole('button', { name, exact: true }).first()
  }

  get dialog() {
    return this.page.locator('dialog[open]')
  }

  get status() {
    return this.page.locator('[role="status"]')
  }

  get alert() {
    return this.page.locator('[role="alert"]')
  }

  /** Presses a button and says yes in the dialog it asks with. */
  async act(name, within) {
    await this.button(name, within).click()
    await this.dialog.waitFor()
    await this.confirm(name)
  }

  /** Says yes: the button of the dialog repeats the verb. */
  async confirm(name) {
    await this.dialog.getByRole('button', { name: new RegExp(`^${name.replace(/…$/, '').split(' ')[0]}`, 'i') }).click()
  }

  /** Waits until the page says something to whoever cannot see it. */
  async says(pattern, where = this.status) {
    await until(`the page to say ${pattern}, and not: ${await texts(where)}`, async () => (await texts(where)).some((text) => pattern.test(text)), ACT_MS)
  }

  /** Waits until the text of an element, or of the view, is as wanted. */
  async shows(pattern, where = this.main) {
    let seen = ''
    try {
      await until(`the page to show ${pattern}`, async () => pattern.test((seen = await text(where))), ACT_MS)
    } catch (error) {
      throw new Error(`${error.message}; it shows: ${seen.slice(0, 2_000)}`)
    }
    return seen
  }

  /** Waits until the text of an element, or of the view, is no longer so. */
  async hides(pattern, where = this.main) {
    await until(`the page to show ${pattern} no longer`, async () => !pattern.test(await text(where)), ACT_MS)
  }

  /** Does something and says how many milliseconds later the page showed it: `shown` is asked in the page. */
  async lateness(act, shown, argument) {
    const begun = performance.now()
    const [ms] = await Promise.all([
      until('the page to show it', async () => (await this.page.evaluate(shown, argument)) && performance.now() - begun, ACT_MS),
      act(),
    ])
    return ms
  }

  /** What axe finds wrong, a line each. */
  async axe() {
    const loaded = await this.page.evaluate(() => 'axe' in globalThis)
    if (!loaded) await this.page.evaluate(readFileSync(installed.resolve('axe-core/axe.min.js'), 'utf8'))
    const found = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] })
      return violations.map(({ id, help, nodes }) => [id, help, nodes.slice(0, 5).map((node) => `${node.target.join(' ')} (${node.any[0]?.message ?? ''})`)])
    })
    return found.map(([id, help, nodes]) => `${id}: ${help}: ${nodes.join('; ')}`)
  }

  /** By how many pixels the page is wider than what one sees of it. */
  overflow() {
    return this.page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth))
  }

  /** Texts that are out of sight at the side, where nothing scrolls to them and no dots say that there is more. */
  outOfSight() {
    return this.page.evaluate(() => {
      const wide = document.documentElement.clientWidth
      const reached = (node) => {
        for (let at = node; at && at !== document.documentElement; at = at.parentElement) {
          const style = getComputedStyle(at)
          if (['auto', 'scroll'].includes(style.overflowX) || (style.textOverflow === 'ellipsis' && at.getBoundingClientRect().right <= wide + 1)) return true
        }
        return node.matches('.skip, .unseen, option')
      }
      const said = [...document.body.querySelectorAll('*')].filter((node) => [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim()))
      const out = said.filter((node) => {
        const { left, right, width } = node.getBoundingClientRect()
        return width > 0 && (right > wide + 1 || left < -1) && !reached(node)
      })
      return out.slice(0, 10).map((node) => `${node.localName}.${node.className}: ${node.textContent.slice(0, 60)}`)
    })
  }
}

async function text(where) {
  return (await texts(where)).join('\n')
}

/**
 * The texts of elements as one reads them, a space between pieces. Not `innerText`: it leaves out what the browser has not
 * laid out yet because it is out of view.
 */
function texts(where) {
  return where.evaluateAll((all) =>
    all.map((one) => {
      const walker = document.createTreeWalker(one, NodeFilter.SHOW_TEXT)
      const pieces = []
      while (walker.nextNode()) pieces.push(walker.currentNode.data.trim())
      return pieces.filter(Boolean).join(' ')
    }),
  )
}
