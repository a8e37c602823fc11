// BullMQ, measured. The command line and the line that it prints are those of `benches/rivals/README.md`.
//
// `addBulk` of 500, CONCURRENCY of them in flight; a worker with its defaults, which keep every completed job and its result.

import { Queue, Worker } from 'bullmq';

const [mode, url, n, concurrency] = process.argv.slice(2).map((arg, i) => (i < 2 ? arg : Number(arg)));
const BULK = 500;
const { hostname: host, port, pathname } = new URL(url);
const connection = { host, port: Number(port), db: Number(pathname.slice(1)), maxRetriesPerRequest: null };
const queue = new Queue('rival', { connection });
await queue.waitUntilReady();

const now = () => performance.timeOrigin + performance.now();
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
const start = () => ({ wall: performance.now(), cpu: cpuSeconds() });
const since = (began) => ({ seconds: (performance.now() - began.wall) / 1e3, cpu: cpuSeconds() - began.cpu });

async function enqueue() {
  let next = 0;
  const push = async () => {
    while (next < n) {
      const from = next;
      next += BULK;
      const jobs = Array.from({ length: Math.min(BULK, n - from) }, (_, i) => ({ name: 'noop', data: { i: from + i } }));
      await queue.addBulk(jobs);
    }
  };
  const began = start();
  await Promise.all(Array.from({ length: concurrency }, push));
  return since(began);
}

// a worker, and a promise of the nth job whose result is stored
async function work(count, handle) {
  let done = 0;
  const worker = new Worker('rival', handle, { connection, concurrency, autorun: false });
  const all = new Promise((resolve, reject) => {
    worker.on('completed', () => ++done === count && resolve());
    worker.on('failed', (_, error) => reject(error));
    worker.on('error', reject);
  });
  await worker.waitUntilReady();
  worker.run().catch(() => {});
  return { all };
}

async function consume() {
  let began;
  const { all } = await work(n, async () => {
    began ??= start();
  });
  await all;
  return since(began);
}

async function latency() {
  const waited = [];
  const { all } = await work(n + 1, async (job) => {
    waited.push(now() - job.data.at);
  });
  await queue.add('noop', { at: now() });
  while (waited.length < 1) await sleep(10);
  waited.pop();
  const began = start();
  for (let i = 0; i < n; i++) {
    await sleep(Math.max(0, began.wall + i * 50 - performance.now()));
    await queue.add('noop', { at: now() });
  }
  await all;
  return { ...since(began), waited: waited.sort((a, b) => a - b) };
}

const modes = { enqueue, consume, latency };
if (!modes[mode]) throw new Error(`no such mode: ${mode}`);
const { seconds, cpu, waited } = await modes[mode]();
const at = (percent) => waited?.[Math.floor((waited.length * percent) / 100)] ?? null;
const line = { rival: 'bullmq', mode, n, concurrency, seconds, per_second: n / seconds, cpu_seconds: cpu };
console.log(JSON.stringify({ ...line, p50_ms: at(50), p99_ms: at(99) }));
process.exit(0);
