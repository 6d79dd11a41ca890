// Many tabs are one listener.

import assert from 'node:assert/strict'
import { scene, until } from './harness.mjs'

/** A browser has six connections to one place: with this many tabs a stream for each would leave none for questions. */
const TABS = 7

scene('seven tabs are live at once, all hear, and the daemon has one listener', async (site, t) => {
  const app = site.repository('app', { todos: ['one'] })
  await site.start([app])
  await site.api.order('one')
  const first = await site.tab({ place: '#/lanes' })
  const tabs = [first]
  while (tabs.length < TABS) tabs.push(await site.another(first, '#/lanes'))
  for (const tab of tabs) {
    await tab.live()
    await tab.row('builder').waitFor()
  }
  assert.equal(await site.api.metric('slugline_sse_clients'), 1)
  const shown = () => document.querySelector('main').textContent.includes('for all of you')
  const begun = performance.now()
  const heard = tabs.map((tab) => tab.lateness(async () => {}, shown))
  await site.api.pause('builder', 'for all of you')
  await Promise.all(heard)
  t.diagnostic(`all of them after ${Math.round(performance.now() - begun)} ms`)
  assert.equal(await site.api.metric('slugline_sse_clients'), 1)

  // The one that was there first goes; the others hear on.
  await first.page.close()
  site.tabs.splice(site.tabs.indexOf(first), 1)
  await site.api.resume('builder')
  for (const tab of tabs.slice(1)) await tab.hides(/for all of you/)
  assert.equal(await site.api.metric('slugline_sse_clients'), 1)
  for (const tab of tabs.slice(1)) await tab.page.close()
  await until('nobody to listen', async () => (await site.api.metric('slugline_sse_clients')) === 0)
})

scene('signing out in one tab signs out all of them', async (site) => {
  const app = site.repository('app', { todos: ['one'] })
  await site.start([app])
  site.expects(/status of 401/)
  const first = await site.tab({ place: '#/todos' })
  const second = await site.another(first, '#/todos')
  await second.live()
  await first.page.getByRole('button', { name: 'Sign out' }).click()
  await first.signed('out')
  await second.signed('out')
  assert.equal(await second.row('app/one').count(), 0)
})

scene('a tab that was in the background for a while shows what is so', async (site) => {
  const app = site.repository('app', { todos: ['one', 'two'] })
  await site.start([app])
  const first = await site.tab({ place: '#/todos' })
  await first.live()
  const second = await site.another(first, '#/now')
  await second.page.bringToFront()
  await second.live()
  await site.api.order('two', { worker: 'heron' })
  await first.page.bringToFront()
  await first.shows(/heron/, first.row('app/two'))
})
