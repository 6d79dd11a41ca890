// Whatever agents, people and commits say is text: nothing is made of it, and it changes nothing around it.

import assert from 'node:assert/strict'
import { scene } from './harness.mjs'
import { hostile } from './seeds.mjs'

/** What is wrong with the page as it stands; nothing, if all is text. */
const wrong = (tab) =>
  tab.page.evaluate(() => {
    const found = []
    if ('taken' in globalThis) found.push(`something ran: ${globalThis.taken}`)
    // The page's own: one image, one script, charts.
    const made = 'img:not([src="icon.svg"]), script:not([src="app.js"]), iframe, object, embed, base, meta[http-equiv], svg a, b, style'
    for (const node of document.querySelectorAll(made)) found.push(`an element: ${node.outerHTML.slice(0, 200)}`)
    for (const node of document.body.querySelectorAll('*')) {
      for (const { name, value } of node.attributes) {
        if (/^on/i.test(name)) found.push(`a handler: ${name}`)
        if (/^(href|src|action|formaction|xlink:href)$/i.test(name) && !/^(#|\/|icon\.svg$|app\.js$|style\.css$)/.test(value)) found.push(`a link to ${value}`)
      }
    }
    // What turns the direction of text stays within a piece of its own.
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) {
      const { data, parentElement } = walker.currentNode
      if (!/[\u202a-\u202e\u2066-\u2069]/.test(data) || parentElement.closest('script, style')) continue
      let node = parentElement
      while (node && !/isolate|plaintext/.test(getComputedStyle(node).unicodeBidi)) node = node.parentElement
      if (!node || node === document.documentElement || node.matches('main, body, section, ul, ol')) found.push(`text turns what is around it: ${parentElement.outerHTML.slice(0, 200)}`)
    }
    return [...new Set(found)]
  })

scene('hostile words of agents, people, commits, files, branches and logs are text in every view', async (site) => {
  const { session, name } = await hostile(site)
  const { api } = site
  const tab = await site.tab()
  const log = (await api.get('/sessions')).good.find((one) => one.source === 'log').id
  const worktree = `#/worktrees/app/${encodeURIComponent(name)}`
  const places = [
    ['#/now', 'now', /paid/],
    ['#/todos', 'todos', /paid/],
    ['#/todos/app/one', 'todo', /<script>/],
    ['#/todos/app/two', 'todo', /<script>/],
    ['#/todos/app/red', 'todo', /red/],
    ['#/todos/app/held', 'todo', /<script>/],
    ['#/todos/app/filed', 'todo', /<script>/],
    ['#/worktrees?show=all', 'worktrees', /<img/],
    [worktree, 'worktree', /<script>[\s\S]*onerror/],
    ['#/sessions', 'sessions', /<script>/],
    [`#/sessions/${encodeURIComponent(session)}`, 'session', /<script>[\s\S]*onerror[\s\S]*javascript:/],
    [`#/sessions/${log}`, 'session', /<script>/],
    ['#/lanes', 'lanes', /<script>/],
    ['#/system', 'system', /lease/],
  ]
  for (const [place, view, shows] of places) {
    await tab.at(place, view)
    await tab.shows(shows)
    // What is folded away is made, too.
    await tab.page.evaluate(() => document.querySelectorAll('details').forEach((node) => (node.open = true)))
    assert.deepEqual(await wrong(tab), [], place)
  }
  await tab.page.setViewportSize({ width: 360, height: 740 })
  for (const [place, view] of places) {
    await tab.at(place, view)
    await tab.settled()
    assert.equal(await tab.overflow(), 0, `${place} is not wider than a telephone`)
    assert.deepEqual(await tab.outOfSight(), [], place)
  }
})

scene('hostile words are text in dialogs and messages, too', async (site) => {
  const { name } = await hostile(site)
  const tab = await site.tab({ place: '#/now' })
  await tab.view('now')
  await tab.button('Show log').click()
  await tab.shows(/<script>/, tab.dialog)
  assert.deepEqual(await wrong(tab), [])
  await tab.page.keyboard.press('Escape')
  await tab.at(`#/worktrees/app/${encodeURIComponent(name)}`, 'worktree')
  await tab.button('Remove worktree…').click()
  await tab.shows(/onerror/, tab.dialog)
  assert.deepEqual(await wrong(tab), [])
})

scene('hostile addresses lead nowhere', async (site) => {
  const app = site.repository('app', { todos: ['one'] })
  await site.start([app])
  site.expects(/status of 40\d/)
  const tab = await site.tab()
  const places = [
    '#/todos/app/<img src=x onerror=globalThis.taken=1>',
    '#/todos/..%2f..%2flivez/x',
    '#/worktrees/app/%00',
    '#/sessions/%E0%A4%A',
    '#/lanes/"><script>globalThis.taken=2</script>',
    '#/system/hangs/..%2f..%2f..%2fetc%2fpasswd',
    '#/javascript:globalThis.taken=3',
    '#/todos?q=<img src=x onerror=globalThis.taken=4>&stage=<b>',
    '#/__proto__/constructor',
    `#/todos/app/${'x'.repeat(5_000)}`,
  ]
  for (const place of places) {
    await tab.go(place)
    await tab.page.locator('main:not([aria-busy="true"])').waitFor()
    assert.deepEqual(await wrong(tab), [], place)
  }
  await tab.at('#/now', 'now')
})
