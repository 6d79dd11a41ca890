// Everything without a mouse, and every place by its address.

import assert from 'node:assert/strict'
import { scene, until } from './harness.mjs'

async function small(site) {
  const app = site.repository('app', { todos: ['alpha', 'beta', 'gamma'] })
  await site.start([app])
  await site.api.order('alpha', { worker: 'heron' })
}

const focused = (tab) => tab.page.evaluate(() => document.activeElement?.textContent || document.activeElement?.getAttribute('aria-label') || document.activeElement?.tagName)

/** Presses Tab until something with this name has the focus. */
async function tabTo(tab, name) {
  for (let pressed = 0; pressed < 60; pressed += 1) {
    if (name.test(await focused(tab))) return
    await tab.page.keyboard.press('Tab')
  }
  throw new Error(`no way by Tab to ${name}`)
}

scene('signing in, opening a todo, pausing a lane and reading the help need no mouse', async (site) => {
  await small(site)
  site.expects(/status of 401/)
  const tab = await site.tab({ signedIn: false })
  const { keyboard } = tab.page
  await tab.go()
  await tab.signed('out')
  await until('the field to have the focus, or be reached', async () => {
    if (await tab.page.getByLabel('Token').evaluate((node) => node === document.activeElement)) return true
    await keyboard.press('Tab')
    return false
  })
  await keyboard.type(site.daemon.token)
  await keyboard.press('Enter')
  await tab.signed('in')
  await tab.view('now')

  await keyboard.press('g')
  await keyboard.press('t')
  await tab.view('todos')
  await tab.row('app/gamma').waitFor()
  const order = await tab.main.locator('.row[data-key]').evaluateAll((all) => all.map((row) => row.dataset.key))
  await keyboard.press('j')
  await keyboard.press('j')
  const current = tab.main.locator('[data-key][aria-current="true"]')
  assert.equal(await current.count(), 1)
  assert.equal(await current.getAttribute('data-key'), order[1])
  await keyboard.press('k')
  assert.equal(await current.getAttribute('data-key'), order[0])
  await keyboard.press('ArrowDown')
  assert.equal(await current.getAttribute('data-key'), order[1])
  await keyboard.press('Enter')
  await tab.view('todo')
  await tab.shows(new RegExp(order[1].split('/')[1]))

  await keyboard.press('g')
  await keyboard.press('l')
  await tab.view('lanes')
  await tab.row('builder').waitFor()
  await tabTo(tab, /^Pause lane$/)
  await keyboard.press('Enter')
  await tab.dialog.waitFor()
  await keyboard.type('without a mouse')
  await keyboard.press('Enter')
  await tab.says(/paused/)
  assert.equal((await site.api.lane('builder')).reason, 'without a mouse')
  assert.notEqual(await focused(tab), 'BODY', 'the focus is where it was, and not lost')

  await keyboard.press('?')
  await tab.shows(/next and previous|help/i, tab.dialog)
  await keyboard.press('Escape')
  await tab.dialog.waitFor({ state: 'detached' })
})

scene('every view has its keys, search takes words and leaves at Escape, and r asks again', async (site) => {
  await small(site)
  const tab = await site.tab()
  await tab.view('now')
  const { keyboard } = tab.page
  for (const [letter, view] of [['t', 'todos'], ['w', 'worktrees'], ['s', 'sessions'], ['l', 'lanes'], ['y', 'system'], ['n', 'now']]) {
    await keyboard.press('g')
    await keyboard.press(letter)
    await tab.view(view)
  }
  await tab.at('#/todos', 'todos')
  await tab.row('app/beta').waitFor()
  await keyboard.press('/')
  await keyboard.type('gn?j beta')
  assert.equal(await tab.page.getByRole('searchbox').inputValue(), 'gn?j beta', 'keys are letters while one writes')
  await keyboard.press('Control+A')
  await keyboard.type('beta')
  await tab.row('app/alpha').waitFor({ state: 'detached' })
  assert.ok(await tab.page.getByRole('searchbox').evaluate((node) => node === document.activeElement), 'the field keeps the focus while rows come and go')
  await keyboard.press('Escape')
  await keyboard.press('j')
  await keyboard.press('Enter')
  await tab.view('todo')
  await tab.shows(/beta/)
  const asked = []
  tab.page.on('request', (request) => asked.push(request.url()))
  await keyboard.press('r')
  await until('the daemon to be asked again', () => asked.some((url) => url.endsWith('/todos/app/beta')))
})

scene('the first Tab leads past the navigation, and everything that can be pressed shows that it has the focus', async (site) => {
  await small(site)
  const tab = await site.tab({ place: '#/lanes' })
  await tab.view('lanes')
  await tab.page.evaluate(() => document.activeElement?.blur())
  await tab.page.reload()
  await tab.view('lanes')
  await tab.page.evaluate(() => document.activeElement?.blur())
  await tab.page.keyboard.press('Tab')
  const first = await focused(tab)
  for (let pressed = 0; pressed < 25; pressed += 1) {
    const shown = await tab.page.evaluate(() => {
      const node = document.activeElement
      if (!node || node === document.body) return 'nothing'
      const style = getComputedStyle(node)
      return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1 ? '' : node.outerHTML.slice(0, 120)
    })
    if (shown === 'nothing') break
    assert.equal(shown, '')
    await tab.page.keyboard.press('Tab')
  }
  assert.ok(first)
})

scene('every place has an address, and back and forward go through them', async (site) => {
  await small(site)
  const session = (await site.api.get('/sessions')).good[0].id
  const tab = await site.tab()
  await tab.view('now')
  const places = [['#/todos?stage=ready', 'todos'], ['#/todos/app/beta', 'todo'], ['#/worktrees/app/%40main', 'worktree'], [`#/sessions/${encodeURIComponent(session)}`, 'session'], ['#/lanes/builder', 'lanes'], ['#/system', 'system']]
  for (const [place, view] of places) await tab.at(place, view)
  for (const [, view] of [...places].reverse().slice(1)) {
    await tab.page.goBack()
    await tab.view(view)
  }
  assert.equal(new URL(tab.page.url()).hash, '#/todos?stage=ready')
  await tab.row('app/beta').waitFor()
  assert.equal(await tab.row('app/alpha').count(), 0, 'what was chosen is chosen')
  await tab.page.goForward()
  await tab.view('todo')
  await tab.page.reload()
  await tab.view('todo')
  await tab.shows(/beta/)
  const fresh = await site.another(tab, '#/todos/app/gamma')
  await fresh.view('todo')
  await fresh.shows(/gamma/)
})

scene('going back to a list finds it where one left it', async (site) => {
  const app = site.repository('app', { todos: Array.from({ length: 120 }, (_, number) => `todo-${String(number).padStart(3, '0')}`) })
  await site.start([app])
  const tab = await site.tab({ place: '#/todos' })
  await tab.view('todos')
  const row = tab.row('app/todo-100')
  await row.scrollIntoViewIfNeeded()
  const top = await tab.page.evaluate(() => Math.max(scrollY, document.querySelector('main').scrollTop))
  assert.ok(top > 500)
  await row.getByRole('link').first().click()
  await tab.view('todo')
  await tab.page.goBack()
  await tab.view('todos')
  await until('the list to stand where it stood', async () => Math.abs((await tab.page.evaluate(() => Math.max(scrollY, document.querySelector('main').scrollTop))) - top) < 50, 5_000)
})
