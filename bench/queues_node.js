// The node half of queues.py: graphile-worker and pg-boss. Started by queues.py as
//   node queues_node.js RIVAL WORKERS JOBS      (PGHOST, PGUSER, PGDATABASE, NODE_PATH set)
// It runs 500 warm-up jobs (so that node has compiled the code), enqueues the jobs, opens
// all connections, and only then measures. It prints one JSON object: seconds, lat (the
// milliseconds of every claim+complete pair), left (jobs found not completed afterwards).
'use strict';
const [rival, workers, jobs] = [process.argv[2], +process.argv[3], +process.argv[4]];
const pg = require('pg'), now = () => performance.now(), WARM = 500;
const sql = async (text) => {            // on a connection of its own
  const c = new pg.Client(); await c.connect();
  const r = await c.query(text); await c.end(); return r.rows; };
// Open n connections at once, so that no timed claim pays for connecting.
const openAll = (query, n) =>
  Promise.all(Array.from({ length: n }, () => query('SELECT pg_sleep(0.2)')));
// Ready to measure: fresh planner statistics, and the fsync counter set to zero.
const settle = async () => { await sql('VACUUM ANALYZE');
  await new Promise((ok) => setTimeout(ok, 1200));  // let idle backends report counters
  await sql("SELECT pg_stat_reset_shared('wal')"); };

async function graphile() {
  const { run, runOnce, runMigrations, Logger } = require('graphile-worker');
  const { EventEmitter } = require('events');
  const logger = new Logger(() => () => {});         // by default it logs every job
  const taskList = { noop: async () => {} };
  const enqueue = (n) => sql(`SELECT count(graphile_worker.add_job('noop',
    json_build_object('n', n))) FROM generate_series(1, ${n}) n`);
  const batch = async (n, timed) => {
    const pgPool = new pg.Pool({ max: workers + 2 });
    await openAll((q) => pgPool.query(q), workers + 2);
    const options = { pgPool, taskList, logger, concurrency: workers, noHandleSignals: true };
    if (!timed) { await runOnce(options); await pgPool.end(); return; }
    const events = new EventEmitter(), began = new Map(), lat = [];
    let first = 0, finish;
    const finished = new Promise((ok) => { finish = ok; });
    events.on('worker:getJob:start', ({ worker }) => {
      const t = now(); first ||= t; began.set(worker.workerId, t); });
    events.on('job:complete', ({ worker }) => {      // emitted after the delete committed
      const t = now(); lat.push(t - began.get(worker.workerId));
      if (lat.length === n) finish((t - first) / 1000); });
    const runner = await run({ ...options, events });
    const seconds = await finished;
    await runner.stop(); await pgPool.end();
    return { seconds, lat };
  };
  await runMigrations({ connectionString: `postgres:///${process.env.PGDATABASE}?host=` +
    `${encodeURIComponent(process.env.PGHOST)}&user=${process.env.PGUSER}`, logger });
  await enqueue(WARM); await batch(WARM, false);
  await enqueue(jobs); await settle();
  const out = await batch(jobs, true);
  out.left = +(await sql('SELECT count(*) FROM graphile_worker._private_jobs'))[0].count;
  return out;
}

async function pgboss() {
  const PgBoss = require('pg-boss'), queue = 'bench';
  const batch = async (n, timed) => {
    // Housekeeping and cron are off: they run once a minute or so and are not the queue.
    const boss = new PgBoss({ host: process.env.PGHOST, user: process.env.PGUSER,
      database: process.env.PGDATABASE, max: workers, supervise: false, schedule: false });
    boss.on('error', (e) => { console.error(e); process.exit(1); });
    await boss.start(); await boss.createQueue(queue);
    for (let i = 0; i < n; i += 1000)
      await boss.insert(Array.from({ length: Math.min(1000, n - i) },
        (_, k) => ({ name: queue, data: { n: i + k } })));
    if (timed) await settle();
    await openAll((q) => boss.getDb().executeSql(q), workers);
    const lat = [], first = now();
    await Promise.all(Array.from({ length: workers }, async () => {
      for (;;) {
        const t = now(), [job] = await boss.fetch(queue, { batchSize: 1 });
        if (!job) return;                            // empty: "left" below tells if not
        await boss.complete(queue, job.id);
        lat.push(now() - t);
      } }));
    const seconds = (now() - first) / 1000;
    await boss.stop({ graceful: false, wait: true });
    return { seconds, lat };
  };
  await batch(WARM, false);
  const out = await batch(jobs, true);
  const [r] = await sql("SELECT count(*) FROM pgboss.job WHERE state = 'completed'");
  out.left = jobs + WARM - r.count;
  return out;
}

(rival === 'pg-boss' ? pgboss() : graphile()).then(
  (out) => { process.stdout.write(JSON.stringify(out)); process.exitCode = 0; },
  (e) => { console.error(e); process.exit(1); });
