// Six git commands per worktree, AT_ONCE processes at a time, as dashboards in Node do it: bench/list runs it.
//   node list_node.js AT_ONCE BASE LIST      LIST has the path of a worktree per line; prints one line of JSON
'use strict'
const { execFile } = require('node:child_process')
const { readFileSync } = require('node:fs')

const [atOnce, base, list] = process.argv.slice(2)
const worktrees = readFileSync(list, 'utf8').split('\n').filter(Boolean)
const six = [
  ['rev-parse', 'HEAD'],
  ['rev-parse', '--abbrev-ref', 'HEAD'],
  ['status', '--porcelain'],
  ['log', '-1', '--format=%s%n%an%n%ct'],
  ['rev-list', '--left-right', '--count', `${base}...HEAD`],
  ['rev-parse', '--abbrev-ref', '@{u}'], // fails where there is no upstream
]
const calls = worktrees.flatMap((cwd) => six.map((args) => ({ cwd, args })))

let seen = 0
function git({ cwd, args }) {
  return new Promise((resolve, reject) => {
    execFile('git', args, { cwd, maxBuffer: 1 << 26 }, (error, stdout) => {
      if (error && !args.includes('@{u}')) return reject(error)
      seen += stdout.length
      resolve(stdout)
    })
  })
}

async function some(queue) {
  for (let call; (call = queue.shift()); ) await git(call)
}

async function main() {
  const begun = process.hrtime.bigint()
  const lanes = Math.min(Number(atOnce), calls.length)
  if (lanes === calls.length) await Promise.all(calls.map(git))
  else await Promise.all(Array.from({ length: lanes }, () => some(calls)))
  console.log(JSON.stringify({ ms: Number(process.hrtime.bigint() - begun) / 1e6, seen }))
}
main()
