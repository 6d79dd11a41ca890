// A daemon in a process of its own. It is ended by its own pid, also when the test's process ends first.

import { spawn } from 'node:child_process'
import { existsSync, openSync, closeSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Client } from './client.mjs'
import { write } from './repository.mjs'
import { until } from './waiting.mjs'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** The program under test: CONSOLE_TEST_PROGRAM, else the newest this machine has built. */
export function program() {
  const built = ['debug', 'release'].map((kind) => join(ROOT, `target/${kind}/slugline`))
  const found = [process.env.CONSOLE_TEST_PROGRAM, ...built].filter(Boolean).find((path) => existsSync(path))
  if (!found) throw new Error('there is no daemon: `cargo build` makes one, or CONSOLE_TEST_PROGRAM names it')
  return found
}

/** Everything that runs, so that nothing outlives this process. */
const running = new Set()
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')))
// Told twice, as a whole group of processes is, it still clears away.
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]]) process.on(signal, () => process.exit(code))

/**
 * The configuration file of a daemon. Tables of settings are `{table: {key: value}}`; `top` is what is in none of them,
 * `text` is added as it is.
 */
export function configuration({ dir, repositories, top = {}, settings = {}, text = '' }) {
  const value = (each) => (Array.isArray(each) ? `[${each.map(value).join(', ')}]` : JSON.stringify(each))
  const pairs = (table) => Object.entries(table).map(([key, each]) => `${key} = ${value(each)}\n`).join('')
  const first = { listen: '127.0.0.1:0', data_dir: join(dir, 'data'), socket: join(dir, 'socket'), ...top }
  const tables = Object.entries(settings).map(([name, table]) => `[${name}]\n${pairs(table)}\n`)
  const registered = repositories.map(({ name, path, ...more }) => `[[repositories]]\n${pairs({ name, path, ...more })}\n`)
  return [pairs(first), ...tables, ...registered, text].join('\n')
}

export class Daemon {
  /** A daemon on these repositories, once it answers. `dir` is for its data, configuration and log. */
  static async start(options) {
    const daemon = new Daemon()
    daemon.dir = options.dir
    daemon.env = options.env ?? {}
    daemon.configure(options)
    await daemon.spawn('127.0.0.1:0')
    return daemon
  }

  /** From the next start on these are its settings. */
  configure(options) {
    write(this.file('slugline.toml'), configuration({ dir: this.dir, ...options }))
  }

  /** Lets it run on when this process ends. */
  leave() {
    running.delete(this.child)
    this.child.unref()
  }

  file(name) {
    return join(this.dir, name)
  }

  get data() {
    return this.file('data')
  }

  get log() {
    return existsSync(this.file('daemon.log')) ? readFileSync(this.file('daemon.log'), 'utf8') : ''
  }

  get url() {
    return `http://${this.address}`
  }

  get pid() {
    return this.child.pid
  }

  /** Where a slug's worktree is. */
  worktree(repo, slug) {
    return join(this.data, 'worktrees', repo, slug)
  }

  async spawn(listen) {
    rmSync(join(this.data, 'address'), { force: true })
    // The daemon refuses variables it does not know, so it is told none of this machine's.
    const kept = Object.entries(process.env).filter(([name]) => !/^(SLUGLINE_|GIT_)/.test(name))
    const log = openSync(this.file('daemon.log'), 'a')
    const child = spawn(program(), ['serve', '--config', this.file('slugline.toml'), '--listen', listen], {
      cwd: this.dir,
      // In a group of its own: whoever stops the tests stops them, and they stop it.
      detached: true,
      env: { ...Object.fromEntries(kept), ...this.env },
      stdio: ['ignore', 'ignore', log],
    })
    closeSync(log)
    running.add(child)
    this.child = child
    this.over = new Promise((resolve) => {
      child.once('error', (error) => resolve({ error }))
      child.once('exit', (code, signal) => {
        running.delete(child)
        resolve({ code, signal })
      })
    })
    try {
      await this.answers(child)
    } catch (error) {
      await this.kill()
      throw error
    }
  }

  /** Waits until a daemon that was started says where it is, and answers there. */
  async answers(child) {
    this.address = await until('the daemon to write its address', () => {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the daemon ended: ${this.log}`)
      const file = join(this.data, 'address')
      const text = existsSync(file) ? readFileSync(file, 'utf8').trim() : ''
      return /:\d+$/.test(text) && text
    })
    // Where nobody has to sign in, there is none.
    this.token = existsSync(join(this.data, 'token')) ? readFileSync(join(this.data, 'token'), 'utf8').trim() : ''
    this.client = new Client(this.address, this.token)
    await until('the daemon to answer', async () => {
      const answer = await this.client.get('/readyz').catch(() => null)
      return answer?.status === 200
    })
  }

  /** Stops in order, and waits for the end. */
  async stop() {
    return this.end('SIGTERM')
  }

  /** `kill -9`, and waits until it is gone. */
  async kill() {
    return this.end('SIGKILL')
  }

  async end(signal) {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal)
    return this.over
  }

  /** The next daemon on the same data and the same port. */
  async again() {
    await this.spawn(this.address)
  }

  /** Stops, does what is to be done meanwhile, and starts again on the same port. */
  async restart(meanwhile = async () => {}) {
    await this.stop()
    await meanwhile()
    await this.again()
  }
}
