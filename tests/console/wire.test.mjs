// What goes over the wire: how much, and with which headers.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { scene, until } from './harness.mjs'
import { Wire } from './wire.mjs'

/** What the first look at a small daemon may cost, in bytes: code, style, answers, heads. */
const FIRST_LOAD_MAX = 100_000
/** How long nothing more has to come until everything has come, in milliseconds. */
const QUIET_MS = 500

async function small(site) {
  const app = site.repository('app', { todos: ['one', 'two', { slug: 'three', after: ['one'] }] })
  await site.start([app])
  const order = await site.api.order('one', { worker: 'heron' })
  await site.api.report(order.claim.session, ['note', 'reading'])
}

/** Somebody who has signed in before and whose browser has nothing of the console yet, behind a proxy that counts. */
async function newcomer(site, wire) {
  const known = await site.tab()
  const storageState = await known.context.storageState()
  await known.context.close()
  return site.tab({ proxy: wire.proxy, storageState, signedIn: false })
}

/** Waits until nothing more comes. */
async function quiet(wire) {
  let [seen, since] = [-1, performance.now()]
  await until('nothing more to come', () => {
    if (wire.total !== seen) [seen, since] = [wire.total, performance.now()]
    return performance.now() - since > QUIET_MS
  })
}

scene('the first look costs less than 100 KB in all', async (site, t) => {
  await small(site)
  const wire = await Wire.open()
  try {
    const tab = await newcomer(site, wire)
    await tab.go('#/now')
    await tab.view('now')
    await tab.live()
    await tab.shows(/heron/)
    await quiet(wire)
    t.diagnostic(`${wire.total} bytes: ${wire.bytes.map(([what, bytes]) => `${what} ${bytes}`).join(', ')}`)
    assert.ok(wire.total <= FIRST_LOAD_MAX, `${wire.total} bytes`)
    assert.ok(wire.answers.some(({ path }) => path.endsWith('worker.js')), 'the worker is counted, too')
    const code = wire.answers.filter(({ path }) => /\.(js|css)$/.test(path))
    assert.deepEqual(code.filter(({ headers }) => headers['content-encoding'] !== 'gzip').map(({ path }) => path), [], 'all of it is compressed')
  } finally {
    wire.close()
  }
})

scene('the second look fetches no file again', async (site) => {
  await small(site)
  const wire = await Wire.open()
  try {
    const tab = await newcomer(site, wire)
    await tab.go('#/now')
    await tab.view('now')
    await quiet(wire)
    wire.answers.length = 0
    const before = wire.total
    await tab.page.reload()
    await tab.view('now')
    await quiet(wire)
    const files = wire.answers.filter(({ path }) => path.startsWith('/console/'))
    assert.deepEqual(files.filter(({ status }) => status !== 304).map(({ path }) => path), [])
    assert.ok(wire.total - before < FIRST_LOAD_MAX / 2)
  } finally {
    wire.close()
  }
})

scene('every file of the console forbids what it does not need', async (site) => {
  await small(site)
  const tab = await site.tab()
  await tab.view('now')
  await tab.live()
  const loaded = await tab.page.evaluate(() => performance.getEntriesByType('resource').map(({ name }) => name))
  const files = new Set([`${site.daemon.url}/console/`, `${site.daemon.url}/console/worker.js`, ...loaded.filter((url) => /\/console\/.*\.(js|css|svg)$/.test(url))])
  assert.ok(files.size > 10, [...files].join(' '))
  for (const url of files) {
    const { status, headers } = await fetch(url)
    const policy = headers.get('content-security-policy') ?? ''
    for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]) assert.ok(policy.includes(part), `${url}: ${status} ${policy}`)
    assert.ok(!policy.includes('unsafe'), policy)
    assert.deepEqual(['x-content-type-options', 'referrer-policy', 'x-frame-options'].map((name) => headers.get(name)), ['nosniff', 'no-referrer', 'DENY'])
  }
})

scene('another site can neither frame the console nor ask it anything', async (site) => {
  await small(site)
  const evil = createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html')
    response.end(`<!doctype html><title>elsewhere</title><iframe src="${site.daemon.url}/console/"></iframe><a href="${site.daemon.url}/console/#/todos">to the console</a>`)
  })
  await new Promise((resolve) => evil.listen(0, '127.0.0.1', resolve))
  try {
    const tab = await site.tab()
    site.expects(/./)
    await tab.page.goto(`http://127.0.0.1:${evil.address().port}/`)
    const read = await tab.page.evaluate(async (url) => fetch(`${url}/todos`, { credentials: 'include' }).then((answer) => answer.status, (error) => error.name), site.daemon.url)
    assert.equal(read, 'TypeError', 'it cannot be read from there')
    const wrote = await tab.page.evaluate(async (url) => {
      await fetch(`${url}/lanes/builder/pause`, { method: 'POST', mode: 'no-cors', credentials: 'include', body: '{"reason":"from elsewhere"}' }).catch(() => {})
    }, site.daemon.url)
    assert.equal(wrote, undefined)
    assert.notEqual((await site.api.lane('builder'))?.state, 'paused', 'nor can it change anything')
    assert.equal(await tab.page.frames().at(-1).locator('main').count().catch(() => 0), 0, 'nor show it in a frame')
    await tab.page.getByRole('link', { name: 'to the console' }).click()
    await tab.view('todos')
  } finally {
    evil.close()
    evil.closeAllConnections()
  }
})
