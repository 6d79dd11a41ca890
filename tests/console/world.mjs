// The words of a day: three repositories, who works on them, and what they say while they do. `day.mjs` makes it so.

/** Gates and a prepare that look at the work tree alone: a file of a gate's name says how it fails. */
const TOOLS = {
  'tools/check': `#!/bin/sh
# tools/check NAME FILES: what the gate of this name says.
printf '%s: %s files\\n' "$1" "$2"
sleep "0.$(( $(cksum < README.md | cut -c1-2) % 4 ))"
while [ -e "$HOME/hold-$1" ]; do sleep 0.2; done
if [ -s "tests/$1.fails" ]; then cat "tests/$1.fails"; exit 1; fi
printf '%s: all good\\n' "$1"
`,
  'tools/prepare': `#!/bin/sh
# tools/prepare: installs what deps.lock lists.
echo "resolving $(wc -l < deps.lock) packages"
sleep 0.1
mkdir -p .deps && cp deps.lock .deps/installed
echo "added $(wc -l < deps.lock) packages"
`,
  '.gitignore': '.deps/\n',
}

const settings = (review, ...gates) => `[prepare]
command = "sh tools/prepare"
inputs = ["deps.lock"]
outputs = [".deps"]

[todos]
review = "${review}"
${gates.map(([name, files]) => `
[[gates]]
name = "${name}"
command = "sh tools/check ${name} ${files}"
timeout_ms = 7200000
`).join('')}`

const lock = (...names) => names.map((name, at) => `${name} ${1 + (at % 7)}.${(at * 3) % 11}.${(at * 5) % 9}\n`).join('')

const todo = (slug, title, more = {}) => ({ slug, brief: `# ${title}\n\n${more.why ?? 'Support asks for it every week.'}\n\n- [ ] built\n- [ ] tested\n- [ ] told to support\n`, ...more })

export const REPOSITORIES = [
  {
    name: 'storefront',
    settings: settings('required', ['lint', 412], ['types', 398], ['test', 1_204]),
    files: { ...TOOLS, 'deps.lock': lock('react', 'vite', 'zod', 'stylelint', 'vitest', 'msw', 'dayjs'), 'src/app.tsx': 'export const App = () => null\n', 'src/cart/total.ts': 'export const total = 0\n' },
    todos: [
      todo('checkout-one-page', 'Checkout on one page', { lane: 'builder', priority: 5 }),
      todo('cart-merge-guest', 'A guest\'s cart survives signing in', { lane: 'builder' }),
      todo('search-typo-tolerance', 'Search forgives typing errors', { lane: 'builder' }),
      todo('image-lazy-load', 'Pictures load when they come into view', { lane: 'builder' }),
      todo('address-autocomplete', 'Addresses complete themselves', { lane: 'builder', after: ['checkout-one-page'] }),
      todo('gift-cards', 'Gift cards', { lane: 'builder', after: ['checkout-one-page'] }),
      todo('order-tracking-page', 'One page that says where an order is', { lane: 'builder' }),
      todo('wishlist-sharing', 'Wish lists can be shared', { lane: 'builder' }),
      todo('price-rounding', 'Prices are rounded once', { lane: 'builder', priority: 3 }),
      todo('returns-portal', 'Returns without writing to us', { lane: 'builder', after: ['order-tracking-page'] }),
      todo('a11y-product-page', 'The product page with a screen reader', { lane: 'builder' }),
      todo('i18n-dates', 'Dates in the language of the reader', { lane: 'builder' }),
      todo('coupon-stacking', 'Which coupons go together', { lane: 'builder', after: ['price-rounding'] }),
      todo('product-video', 'Videos of products', { lane: 'builder' }),
      todo('newsletter-opt-in', 'The newsletter asks twice', { lane: 'builder' }),
      todo('size-guide', 'A size guide per brand', { lane: 'builder' }),
    ],
  },
  {
    name: 'payments',
    settings: settings('required', ['clippy', 96], ['test', 611]),
    files: { ...TOOLS, 'deps.lock': lock('axum', 'sqlx', 'rust_decimal', 'tracing', 'uuid'), 'src/main.rs': 'fn main() {}\n', 'src/ledger.rs': '// every posting has two sides\n' },
    todos: [
      todo('refund-partial', 'Refund a part of an order', { lane: 'builder', priority: 5 }),
      todo('webhook-retries', 'Webhooks are tried again', { lane: 'builder' }),
      todo('idempotent-captures', 'A capture sent twice counts once', { lane: 'builder', priority: 4 }),
      todo('ledger-export', 'The ledger as a file for bookkeeping', { lane: 'builder' }),
      todo('card-updater', 'Cards that were replaced', { lane: 'builder' }),
      todo('3ds-challenge', 'The bank asks the customer', { lane: 'builder', priority: 2 }),
      todo('payout-schedule', 'When merchants are paid', { lane: 'builder' }),
      todo('dispute-evidence', 'Evidence for disputes', { lane: 'builder', after: ['webhook-retries'] }),
      todo('currency-rounding', 'Currencies without cents', { lane: 'builder' }),
      todo('settlement-report', 'A report per settlement', { lane: 'builder', after: ['ledger-export'] }),
      todo('fraud-score', 'A score beside each payment', { lane: 'builder' }),
      todo('sepa-mandates', 'Mandates for direct debit', { lane: 'builder' }),
      todo('vault-rotation', 'Keys of the vault are changed', { lane: 'builder', after: ['card-updater'] }),
    ],
  },
  {
    name: 'atlas',
    settings: settings('none', ['links', 87], ['build', 240]),
    files: { ...TOOLS, 'deps.lock': lock('maplibre', 'pmtiles', 'vale', 'markdown-it'), 'docs/index.md': '# Atlas\n', 'src/tiles.ts': 'export const zoom = 14\n' },
    todos: [
      todo('docs-quickstart', 'A first map in five minutes', { lane: 'docs', priority: 2 }),
      todo('tile-cache', 'Tiles are kept for a day', { lane: 'builder' }),
      todo('docs-runbook-paging', 'What to do when paged', { lane: 'docs' }),
      todo('geocode-fallback', 'A second geocoder', { lane: 'builder' }),
      todo('docs-api-errors', 'Every error with its way out', { lane: 'docs' }),
      todo('boundary-import', 'Boundaries of municipalities', { lane: 'builder' }),
      todo('label-collision', 'Labels that do not overlap', { lane: 'builder', after: ['boundary-import'] }),
      todo('docs-style-guide', 'How we write', { lane: 'docs' }),
      todo('offline-bundles', 'Maps without a network', { lane: 'builder', after: ['tile-cache'] }),
      todo('docs-glossary', 'A glossary', { lane: 'docs', after: ['docs-style-guide'] }),
      todo('map-legend', 'A legend that says what is on the map', { lane: 'builder' }),
    ],
  },
]

/** Who works, in which lane. */
export const WORKERS = [
  ['heron', 'builder'],
  ['kestrel', 'builder'],
  ['wren', 'builder'],
  ['plover', 'builder'],
  ['swift', 'builder'],
  ['owl', 'reviewer'],
  ['ibis', 'reviewer'],
  ['rook', 'mender'],
  ['finch', 'docs'],
]

/** What a worker says while at it; `{}` is the slug. */
export const SAYINGS = [
  ['plan', 'Read the brief of {} and the code around it. Three steps: the model, the page, the tests.'],
  ['tool', 'rg --files-with-matches "{}" src | wc -l'],
  ['edit', 'src/{}/index: first cut, behind a flag'],
  ['note', 'The existing tests cover the happy path only; adding the two that would have caught last week\'s bug.'],
  ['tool', 'test --watch {}: 41 passed, 2 failed'],
  ['edit', 'src/{}/index: empty list and one entry are handled apart'],
  ['note', 'Moved the date handling out of the view; it was done in three places.'],
  ['tool', 'test {}: 44 passed'],
  ['edit', 'src/{}/errors: says what to do next, and not only what is wrong'],
  ['note', 'Everything is green here. Cleaning up, then done.'],
]

/** What reviewers find. */
export const FINDINGS = [
  'The total is computed twice, once with tax and once without; the second wins on slow connections.',
  'There is no test for an empty list, and the page is blank then.',
  'The error is swallowed in src/index: log it or hand it on.',
]

/** How gates fail: which, and with which words. */
export const RED = {
  test: [
    'FAIL  src/cart/total.spec.ts > rounds once\n  AssertionError: expected 19.99 to equal 20\n    at src/cart/total.spec.ts:31:14\n\nTests  1 failed, 1203 passed\n',
    'FAIL  src/orders/list.spec.ts > shows the newest first\n  AssertionError: expected 7 to be 9\n\nTests  1 failed, 1203 passed\n',
    "thread 'retry::gives_up_after_a_day' panicked at src/webhook/retry.rs:118:9:\nassertion `left == right` failed\n  left: 23\n right: 24\n",
  ],
  types: ["src/checkout/form.tsx(88,17): error TS2345: Argument of type 'string | undefined' is not assignable to parameter of type 'string'.\n"],
  clippy: ['error: this argument is passed by value, but not consumed in the function body\n  --> src/webhook/retry.rs:52:18\n'],
  build: ['docs/errors.md:14: no page named "rate-limits"\nbuild failed: 1 broken reference\n'],
}

/** Reasons of work that failed, each of its own kind. */
export const REASONS = [
  'the sandbox of the card network answers 503 to every challenge',
  'test 3ds::frictionless does not end: no callback within 60 s',
  'the fixtures of the issuer have expired certificates',
  'cannot decide between two specifications of the challenge window, see notes',
  'the emulator of the bank refuses the second factor: code 4107',
]

/** One failure in three wordings: the lane it happens in pauses itself. */
export const OUTAGES = {
  builder: [
    'install failed: error 503 from the package mirror at 10.0.4.17:4873 after 3 tries',
    'install failed: error 503 from the package mirror at 10.0.4.19:4873 after 2 tries',
    'install failed: error 503 from the package mirror at 10.0.4.17:4873 after 5 tries',
  ],
  docs: [
    'vale: E201 style "Atlas" not found in /home/agents/w1/docs/.styles',
    'vale: E201 style "Atlas" not found in /home/agents/w2/docs/.styles',
    'vale: E201 style "Atlas" not found in /home/agents/w7/docs/.styles',
  ],
}

/** What they ask people, and what they wait for, by repository. */
export const QUESTIONS = {
  storefront: 'Two prices are shown while a coupon is checked: keep the old one until it is, or show neither?',
  payments: 'Refunds of more than 180 days ago: back to the card, or as store credit? The brief says neither.',
  atlas: 'Two sources name this street differently. Which of them wins?',
}
export const WAITS = {
  storefront: 'The design of the second page is promised for this afternoon.',
  payments: 'The bank sends its test certificates this afternoon.',
  atlas: 'The licence of the aerial pictures is being asked for.',
}

/** What people do in work trees of their own. */
export const CHORES = [
  ['storefront', 'Pin the Node version'],
  ['payments', 'Say which clock the ledger uses'],
  ['storefront', 'Hero picture of the winter sale'],
  ['atlas', 'Newer boundary data of the north'],
  ['payments', 'Raise the limit of a batch to 500'],
  ['storefront', 'Remove the old theme'],
  ['atlas', 'Sources of the coastline are named'],
]
