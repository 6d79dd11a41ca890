// Who gets in, and how they are told when they do not.

import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { scene, until } from './harness.mjs'

const REFUSED = /status of 401/

async function small(site, options) {
  const app = site.repository('app', { todos: ['one', 'two'] })
  await site.start([app], options)
}

/** The form has one field, and one button. */
async function signInWith(tab, token) {
  await tab.page.getByLabel('Token').fill(token)
  await tab.page.getByRole('button', { name: 'Sign in' }).click()
}

scene('somebody without a cookie sees the form to sign in, and no error', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ signedIn: false })
  await tab.go()
  await tab.signed('out')
  await tab.page.getByLabel('Token').waitFor()
  assert.equal(await tab.alert.count(), 0, 'nothing went wrong, so nothing says so')
  assert.match(await tab.page.innerText('main'), /slugline console/, 'it says how to get in')
  assert.doesNotMatch(await tab.page.innerText('body'), /one|two/, 'it shows nothing of what is behind it')
})

scene('a wrong token is told in plain words, and the right one lets in', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ signedIn: false })
  await tab.go()
  await tab.signed('out')
  await signInWith(tab, 'not-the-token')
  const said = await tab.shows(/token/i, tab.alert)
  assert.doesNotMatch(said, /\b401\b|unauthorized|undefined|\[object/, said)
  await signInWith(tab, `  ${site.daemon.token}\n`)
  await tab.signed('in')
  await tab.live()
  await tab.view('now')
})

scene('an answer to what was asked before signing in signs nobody out', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ signedIn: false })
  const held = []
  await tab.page.route('**/hangs', (route) => (held.length ? route.continue() : held.push(route)))
  await tab.go()
  await tab.signed('out')
  const late = tab.page.evaluate(async () => {
    const { get } = await import('/console/api.js')
    return get('/hangs').then(() => 'an answer', (problem) => problem.code)
  })
  const [early] = await until('the question to be on its way', () => held.length && held)
  await signInWith(tab, site.daemon.token)
  await tab.signed('in')
  await tab.live()
  await early.continue()
  assert.equal(await late, 'unauthorized')
  await tab.view('now')
  await tab.at('#/todos', 'todos')
  await tab.row('app/one').waitFor()
  assert.equal(await tab.page.evaluate(() => document.body.dataset.signed), 'in')
})

scene('the token stays neither in the page nor in what the browser keeps', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ signedIn: false })
  await tab.go()
  await tab.signed('out')
  await signInWith(tab, site.daemon.token)
  await tab.view('now')
  const { cookies, origins } = await tab.context.storageState()
  const kept = JSON.stringify({ cookies, origins, page: await tab.page.content() })
  assert.ok(!kept.includes(site.daemon.token), 'the token itself is nowhere')
  const [cookie] = cookies
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path], [true, 'Strict', '/'])
  assert.equal(cookie.name, `slugline_${site.daemon.address.split(':')[1]}`)
})

scene('a one-time link signs in once and leaves no trace in the address', async (site) => {
  await small(site)
  const { url } = (await site.api.post('/console/links')).good
  const tab = await site.tab({ signedIn: false })
  await tab.page.goto(url)
  await tab.signed('in')
  await tab.view('now')
  assert.doesNotMatch(tab.page.url(), /code/)
  await tab.page.goBack().catch(() => {})
  assert.doesNotMatch(tab.page.url(), /code/, 'nor behind the back button')

  site.expects(REFUSED)
  const second = await site.tab({ signedIn: false })
  await second.page.goto(url)
  await second.signed('out')
  await second.shows(/link|code|used|once|no longer/i, second.alert)
})

scene('the page says that one is signed in when the daemon said so, and not before', async (site) => {
  await small(site)
  const { url } = (await site.api.post('/console/links')).good
  const tab = await site.tab({ signedIn: false })
  const held = []
  await tab.page.route('**/console/sign-in', (route) => held.push(route))
  await tab.page.goto(url)
  const [signIn] = await until('the code to be on its way', () => held.length && held)
  assert.equal(await tab.page.evaluate(() => document.body.dataset.signed), 'unknown')
  await signIn.continue()
  await tab.signed('in')
  assert.equal((await tab.context.cookies()).length, 1)
  await tab.view('now')
})

scene('signing out forgets everything at once, also what was shown', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ place: '#/todos' })
  await tab.row('app/one').waitFor()
  await tab.page.getByRole('button', { name: 'Sign out' }).click()
  await tab.signed('out')
  await tab.page.getByLabel('Token').waitFor()
  assert.equal(await tab.row('app/one').count(), 0)
  await tab.page.reload()
  await tab.signed('out')
  await tab.page.getByLabel('Token').waitFor()
  await until('the stream to be let go', async () => (await site.api.metric('slugline_sse_clients')) === 0)
})

scene('a reload and the next daemon find one signed in still', async (site) => {
  await small(site)
  site.expects(/ERR_/)
  const tab = await site.tab()
  await tab.page.reload()
  await tab.view('now')
  await site.daemon.restart()
  await tab.page.reload()
  await tab.signed('in')
  await tab.live()
  await tab.view('now')
})

scene('a new token of the daemon ends every sign-in', async (site) => {
  await small(site)
  site.expects(/ERR_/, REFUSED)
  const tab = await site.tab()
  await tab.live()
  await site.daemon.restart(() => rmSync(`${site.daemon.data}/token`))
  await tab.signed('out')
  await tab.page.getByLabel('Token').waitFor()
})

scene('a deep link leads where it says after signing in', async (site) => {
  await small(site)
  site.expects(REFUSED)
  const tab = await site.tab({ signedIn: false })
  await tab.go('#/todos/app/two')
  await tab.signed('out')
  await signInWith(tab, site.daemon.token)
  await tab.view('todo')
  await tab.shows(/two/)
})

scene('where nobody has to sign in, nobody is asked to', async (site) => {
  await small(site, { settings: { auth: { mode: 'none' } } })
  const tab = await site.tab({ signedIn: false })
  await tab.go('#/todos')
  await tab.view('todos')
  await tab.row('app/one').waitFor()
  await tab.live()
  await tab.signed('in')
})

scene('who holds only the cookie, as every other port of this machine does, gets nothing', async (site) => {
  await small(site)
  const tab = await site.tab()
  const [cookie] = await tab.context.cookies()
  const ask = (headers) => fetch(`${site.daemon.url}/todos`, { headers: { Cookie: `${cookie.name}=${cookie.value}`, ...headers } })
  assert.equal((await ask({})).status, 401)
  assert.equal((await ask({ 'X-Slugline-Key': 'guessed' })).status, 401)
  const key = await tab.page.evaluate(() => Object.values({ ...localStorage }).find((value) => value.length > 20))
  assert.equal((await ask({ 'X-Slugline-Key': key })).status, 200)
  assert.equal((await fetch(`${site.daemon.url}/todos`, { headers: { 'X-Slugline-Key': key } })).status, 401)
})
