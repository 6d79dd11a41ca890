// Real git repositories, made by git itself, with nothing of this machine's settings.

import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

/** The environment of a git that knows nothing of this machine, at a time of its own when one is given. */
function environment(at) {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('GIT_'))
  const person = ['AUTHOR', 'COMMITTER'].flatMap((who) => [
    [`GIT_${who}_NAME`, 'Test'],
    [`GIT_${who}_EMAIL`, 'test@localhost'],
    ...(at ? [[`GIT_${who}_DATE`, new Date(at).toISOString()]] : []),
  ])
  return Object.fromEntries([...kept, ['GIT_CONFIG_GLOBAL', '/dev/null'], ['GIT_CONFIG_NOSYSTEM', '1'], ...person])
}

/** Runs git somewhere and gives what it printed; throws with its own words when it fails. */
export function git(dir, args, { at, author, input } = {}) {
  const env = environment(at)
  if (author) env.GIT_AUTHOR_NAME = author
  try {
    return execFileSync('git', args, { cwd: dir, env, input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'], maxBuffer: 1 << 28 }).trim()
  } catch (error) {
    throw new Error(`git ${args.join(' ')} in ${dir}: ${error.stderr || error.message}`)
  }
}

/** Writes a file and its directories. */
export function write(file, content) {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, content)
}

/** A todo of the roadmap: a slug, or one with `after`, `lane`, `priority` and the files of its `brief`. */
function entry(todo) {
  const { slug, after, lane, priority } = typeof todo === 'string' ? { slug: todo } : todo
  const lines = [`- slug: ${slug}`]
  if (after?.length) lines.push(`  after: [${after.join(', ')}]`)
  if (lane) lines.push(`  lane: ${lane}`)
  if (priority) lines.push(`  priority: ${priority}`)
  return `${lines.join('\n')}\n`
}

/** A repository with a work tree on branch `main`. */
export class Repository {
  constructor(path) {
    this.path = path
    this.name = basename(path)
  }

  /** One without commits. */
  static empty(path) {
    mkdirSync(path, { recursive: true })
    const repository = new Repository(path)
    repository.git('init', '--quiet', '--initial-branch', 'main')
    return repository
  }

  /** One with one commit: these todos on the roadmap, each with a brief, and this `.slugline.toml`. */
  static with(path, { todos = [], settings = '', files = {}, at, subject = 'first' } = {}) {
    const repository = Repository.empty(path)
    if (settings) repository.write('.slugline.toml', settings)
    repository.write('README.md', 'read me\n')
    for (const [file, content] of Object.entries(files)) repository.write(file, content)
    repository.plan(todos)
    repository.commit(subject, { at })
    return repository
  }

  /** Writes the roadmap and the briefs; somebody has to commit them. */
  plan(todos) {
    this.write('todos/roadmap.yaml', todos.length ? todos.map(entry).join('') : '[]\n')
    for (const todo of todos) {
      const { slug, brief } = typeof todo === 'string' ? { slug: todo } : todo
      const files = typeof brief === 'string' ? { 'requirements.md': brief } : (brief ?? { 'requirements.md': `# ${slug}\n` })
      for (const [file, content] of Object.entries(files)) this.write(`todos/${slug}/${file}`, content)
    }
  }

  write(file, content) {
    write(join(this.path, file), content)
  }

  /** Commits everything there is, or nothing at all, and gives the commit. */
  commit(subject, options) {
    return commit(this.path, subject, options)
  }

  git(...args) {
    return git(this.path, args)
  }

  /** A worktree beside the repository, on a branch of its own that begins at the base. */
  worktree(path, branch = basename(path)) {
    this.git('worktree', 'add', '--quiet', '-b', branch, path)
    return path
  }

  /**
   * Many worktrees at once, each on a branch of its own: what `git worktree add` leaves behind, without a process for
   * each. Gives their names.
   */
  worktrees(dir, count, name = (number) => `w${String(number).padStart(4, '0')}`) {
    const files = this.git('ls-files').split('\n').filter(Boolean)
    const texts = files.map((file) => [file, readFileSync(join(this.path, file))])
    const names = Array.from({ length: count }, (_, number) => name(number + 1))
    git(this.path, ['-c', 'core.fsync=none', 'update-ref', '--stdin'], { input: names.map((each) => `create refs/heads/${each} HEAD\n`).join('') })
    for (const each of names) {
      const [home, entry] = [join(dir, each), join(this.path, '.git/worktrees', each)]
      for (const [file, text] of texts) write(join(home, file), text)
      write(join(home, '.git'), `gitdir: ${entry}\n`)
      write(join(entry, 'gitdir'), `${join(home, '.git')}\n`)
      write(join(entry, 'commondir'), '../..\n')
      write(join(entry, 'HEAD'), `ref: refs/heads/${each}\n`)
      copyFileSync(join(this.path, '.git/index'), join(entry, 'index'))
    }
    return names
  }
}

/** Commits everything there is in a work tree, or nothing at all, and gives the commit. */
export function commit(dir, subject, options) {
  git(dir, ['add', '--all'], options)
  git(dir, ['commit', '--quiet', '--allow-empty', '--message', subject], options)
  return git(dir, ['rev-parse', 'HEAD'])
}

/** How many lines a file has; none when it is not there. */
export function lines(file) {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').length - 1 : 0
}
