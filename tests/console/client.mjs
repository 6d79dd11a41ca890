// A client of the daemon: what agents and people ask, with the bearer token.

import { until } from './waiting.mjs'

/** The longest wait a call may ask for, in milliseconds. */
const WAIT_MS = 45_000
/** How long an answer may take, in milliseconds: longer than the longest wait. */
const ANSWER_MS = 70_000

/** An answer: status, headers, and its body as JSON where it is. */
export class Answer {
  constructor(what, response, text) {
    this.what = what
    this.status = response.status
    this.headers = response.headers
    this.text = text
  }

  get body() {
    return this.text === '' ? null : JSON.parse(this.text)
  }

  /** The body of an answer that has to be a good one. */
  get good() {
    if (this.status >= 300) throw new Error(`${this.what}: ${this.status} ${this.text}`)
    return this.body
  }

  /** The body of an answer that has to be a problem of this code. */
  problem(code) {
    if (this.status < 400 || this.body.code !== code) throw new Error(`${this.what}: ${this.status} ${this.text}, not ${code}`)
    return this.body
  }
}

export class Client {
  constructor(address, token) {
    this.address = address
    this.token = token
  }

  async ask(method, path, body, headers = {}) {
    const send = { method, headers: { Authorization: `Bearer ${this.token}`, ...headers }, signal: AbortSignal.timeout(ANSWER_MS) }
    if (body !== undefined) {
      send.headers['Content-Type'] = 'application/json'
      send.body = JSON.stringify(body)
    }
    const response = await fetch(`http://${this.address}${path}`, send)
    return new Answer(`${method} ${path}`, response, await response.text())
  }

  get = (path) => this.ask('GET', path)
  post = (path, body = {}) => this.ask('POST', path, body)
  put = (path, body) => this.ask('PUT', path, body)
  delete = (path) => this.ask('DELETE', path)

  /** Asks for work and waits for it: an answer, whatever it is. */
  work = (body) => this.post('/todos/work', { lane: 'builder', wait_ms: WAIT_MS, ...body })

  /** The WorkOrder of a work call for a todo, of `app` unless told otherwise, that has to end in one. */
  async order(slug, body = {}) {
    return (await this.work({ repo: 'app', slug, ...body })).good
  }

  /** A work call that is not waited for: the id of its operation. */
  async begin(slug, body = {}) {
    const answer = await this.work({ repo: 'app', slug, wait_ms: 0, ...body })
    return answer.good.id ?? answer.good.operation
  }

  /** What a claim of a WorkOrder can be told: `verb` is heartbeat, hold, release or complete. */
  tell = (order, verb, body = {}) => this.post(`/todos/${order.repo}/${order.slug}/${verb}`, { token: order.claim.token, ...body })

  heartbeat = (order, progress) => this.tell(order, 'heartbeat', progress === undefined ? {} : { progress })
  hold = (order, body) => this.tell(order, 'hold', body)
  release = (order) => this.tell(order, 'release')
  done = (order, body = {}) => this.tell(order, 'complete', { outcome: 'done', ...body })
  failed = (order, reason) => this.tell(order, 'complete', { outcome: 'failed', reason })
  blocked = (order, reason) => this.tell(order, 'complete', { outcome: 'blocked', reason })

  /** What an agent reports of itself: `[kind, text, data?]` each. */
  report = (session, ...events) =>
    this.post(`/sessions/${encodeURIComponent(session)}/events`, { events: events.map(([kind, text, data]) => ({ kind, text, data })) })

  pause = (lane, reason, more = {}) => this.post(`/lanes/${lane}/pause`, { reason, ...more })
  resume = (lane) => this.post(`/lanes/${lane}/resume`)

  todo = async (repo, slug) => (await this.get(`/todos/${repo}/${slug}`)).good
  lane = async (name) => (await this.get('/lanes')).good.find((lane) => lane.lane === name)
  session = async (id) => (await this.get(`/sessions/${encodeURIComponent(id)}`)).good
  operation = async (id) => (await this.get(`/operations/${id}`)).good
  worktree = async (repo, name) => (await this.get(`/worktrees/${repo}/${encodeURIComponent(name)}`)).good

  /** Waits until an operation has ended, and gives it. */
  ended = (id) =>
    until(`operation ${id} to end`, async () => {
      const operation = await this.operation(id)
      return !['queued', 'running'].includes(operation.state) && operation
    })

  /** The value of a metric, with its labels as they stand in the text; nothing when it is not there. */
  async metric(name) {
    const { text } = await this.get('/metrics')
    const line = text.split('\n').find((each) => each.startsWith(`${name} `))
    return line && Number(line.slice(name.length + 1))
  }
}
