// How it looks: in the dark and in the light, small and large, and to whoever does not see it.

import assert from 'node:assert/strict'
import { scene } from './harness.mjs'
import { furnish } from './seeds.mjs'

/** Every view, with everything in it. */
const places = ({ asks, hang }) => [
  ['#/now', 'now'],
  ['#/todos', 'todos'],
  ['#/todos?stage=done', 'todos'],
  ['#/todos/app/red', 'todo'],
  ['#/todos/app/claimed', 'todo'],
  ['#/worktrees', 'worktrees'],
  ['#/worktrees/app/claimed', 'worktree'],
  ['#/sessions', 'sessions'],
  [`#/sessions/${encodeURIComponent(asks.claim.session)}`, 'session'],
  ['#/lanes', 'lanes'],
  ['#/lanes/flaky', 'lanes'],
  ['#/system', 'system'],
  [`#/system/hangs/${hang}`, 'hang'],
]

/** How light the paper and the ink are, from 0 to 1. */
const lightness = (tab) =>
  tab.page.evaluate(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
    const of = (colour) => {
      canvas.fillStyle = colour
      canvas.fillRect(0, 0, 1, 1)
      const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data
      return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255
    }
    const papers = [document.body, document.documentElement].map((node) => getComputedStyle(node).backgroundColor)
    return [of(papers.find((colour) => colour !== 'rgba(0, 0, 0, 0)')), of(getComputedStyle(document.body).color)]
  })

scene('axe finds nothing wrong in any view, in the light and in the dark', async (site) => {
  const made = await furnish(site)
  const tab = await site.tab()
  const found = []
  for (const colorScheme of ['light', 'dark']) {
    await tab.page.emulateMedia({ colorScheme })
    for (const [place, view] of places(made)) {
      await tab.at(place, view)
      await tab.settled()
      found.push(...(await tab.axe()).map((one) => `${place} ${colorScheme}: ${one}`))
    }
  }
  assert.deepEqual(found, [])
})

scene('axe finds nothing wrong in dialogs, messages and the form to sign in', async (site) => {
  await furnish(site)
  site.expects(/status of 401/)
  const tab = await site.tab({ place: '#/lanes' })
  const found = []
  for (const colorScheme of ['light', 'dark']) {
    await tab.page.emulateMedia({ colorScheme })
    await tab.at('#/lanes', 'lanes')
    await tab.button('Pause lane', tab.row('builder')).click()
    await tab.dialog.waitFor()
    found.push(...(await tab.axe()).map((one) => `dialog ${colorScheme}: ${one}`))
    await tab.dialog.getByRole('textbox').fill('for axe')
    await tab.confirm('Pause lane')
    await tab.says(/paused/)
    found.push(...(await tab.axe()).map((one) => `message ${colorScheme}: ${one}`))
    await site.api.resume('builder')
    await tab.button('Pause lane', tab.row('builder')).waitFor()
  }
  const stranger = await site.tab({ signedIn: false })
  for (const colorScheme of ['light', 'dark']) {
    await stranger.page.emulateMedia({ colorScheme })
    await stranger.go()
    await stranger.signed('out')
    found.push(...(await stranger.axe()).map((one) => `sign-in ${colorScheme}: ${one}`))
  }
  assert.deepEqual(found, [])
})

scene('it follows the dark and the light of the system, at once', async (site) => {
  const app = site.repository('app', { todos: ['one'] })
  await site.start([app])
  const tab = await site.tab({ colorScheme: 'light' })
  await tab.view('now')
  const [paper, ink] = await lightness(tab)
  assert.ok(paper > 0.8 && ink < 0.3, `${paper}, ${ink}`)
  await tab.page.emulateMedia({ colorScheme: 'dark' })
  const [night, chalk] = await lightness(tab)
  assert.ok(night < 0.2 && chalk > 0.6, `${night}, ${chalk}`)
})

scene('no page is wider than what one looks at it with, from a telephone to a wall', async (site) => {
  const made = await furnish(site)
  const tab = await site.tab()
  for (const [width, height] of [[360, 740], [768, 1_024], [2_560, 1_440]]) {
    await tab.page.setViewportSize({ width, height })
    for (const [place, view] of places(made)) {
      await tab.at(place, view)
      await tab.settled()
      assert.equal(await tab.overflow(), 0, `${place} at ${width} pixels`)
      assert.deepEqual(await tab.outOfSight(), [], `${place} at ${width} pixels`)
    }
  }
})

scene('on a telephone everything can be reached and pressed', async (site) => {
  await furnish(site)
  const tab = await site.tab({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, place: '#/lanes' })
  await tab.view('lanes')
  await tab.button('Pause lane', tab.row('builder')).tap()
  await tab.dialog.waitFor()
  await tab.dialog.getByRole('textbox').fill('from a telephone')
  await tab.confirm('Pause lane')
  await tab.says(/paused/)
  assert.equal((await site.api.lane('builder')).reason, 'from a telephone')
  for (const [name, view] of [['Now', 'now'], ['Todos', 'todos'], ['System', 'system']]) {
    await tab.page.getByRole('navigation').getByRole('link', { name: new RegExp(`^${name}`) }).tap()
    await tab.view(view)
  }
  // A target is at least 24 pixels high and wide (WCAG 2.2).
  const small = await tab.page.evaluate(() => [...document.querySelectorAll('button, nav a')].map((node) => [node.textContent, node.getBoundingClientRect()]).filter(([, { width, height }]) => width > 0 && (width < 24 || height < 24)).map(([text]) => text))
  assert.deepEqual(small, [])
})

scene('what it says aloud is there to be heard: a heading, landmarks, names and what happened', async (site) => {
  const app = site.repository('app', { todos: ['one'] })
  await site.start([app])
  await site.api.order('one')
  const tab = await site.tab({ place: '#/todos' })
  await tab.view('todos')
  assert.equal(await tab.page.getByRole('heading', { level: 1 }).count(), 1)
  for (const role of ['main', 'navigation']) assert.equal(await tab.page.getByRole(role).count(), 1, role)
  assert.match(await tab.page.title(), /Todos/)
  assert.equal(await tab.page.getByRole('navigation').locator('[aria-current="page"]').count(), 1)
  await tab.page.getByRole('navigation').getByRole('link', { name: /Lanes/ }).click()
  await tab.view('lanes')
  assert.match(await tab.page.title(), /Lanes/)
  assert.match(await tab.page.evaluate(() => document.activeElement.textContent), /Lanes/, 'the focus goes along')
})
