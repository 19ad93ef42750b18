/**
 * What the kernel engine's sweep costs its process, in a process of its own: `node sweep-probe.js SESSIONS`. The engine runs in
 * here; so many sessions are opened on the wire, and then everything is looked at with nothing due, with all sessions due,
 * and with what they leave due. Prints `sweeps`.
 */
import assert from 'node:assert/strict';
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { bindUdp, readLocal } from '../../net/linux/mmsg-socket.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import { KernelEngine } from '../../relay/engines/kernel/kernel-engine.ts';
import { SourceSocket, BATCH } from './source-socket.ts';
import type { SweepResult } from './scale-results.ts';

const HOUR_MS = 3_600_000;
/** Times that datagrams which were lost while sessions opened are sent again. */
const MOST_ATTEMPTS = 10;

const loaded = loadLibc();
assert('libc' in loaded);
const { libc } = loaded;
const sessions = Number(process.argv[2]);

const engine = new KernelEngine({
  libc,
  name: 'sweep-probe',
  maxSessions: Math.ceil(sessions * 1.05),
  hashSeed: 1,
  interfaces: [],
  // What a session leaves behind is due at once.
  upstreamQuarantineMs: 1,
});
// Nobody reads what comes in there.
const server = bindUdp(libc, { local: Endpoint.parse('127.0.0.1:0') });
const pool = new BackendPool('servers');
pool.add({ id: 'server', endpoint: readLocal(libc, server), weight: 1 });
await engine.publish(pool.snapshot());
const spec = {
  name: 'game',
  listen: Endpoint.parse('127.0.0.1:0'),
  pool: 'servers',
  algorithm: 'ip-hash',
  idleTimeoutMs: HOUR_MS,
  pinTimeoutMs: HOUR_MS,
  receiveBufferBytes: 65_536,
  limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
} as const;
const local = await engine.addListener(spec);

const socket = new SourceSocket(libc, local);
for (let attempt = 0; engine.capacity().liveSessions < sessions && attempt < MOST_ATTEMPTS; attempt++) {
  for (let from = 0; from < sessions; from += BATCH) {
    const count = Math.min(BATCH, sessions - from);
    for (let i = 0; i < count; i++) socket.setSource(i, from + i);
    socket.send(count);
  }
}
socket.close();
assert.equal(engine.capacity().liveSessions, sessions, 'not every session was opened');

const sweeps: SweepResult[] = [];
/** What is walked over in a sweep, and what of it is due. */
async function sweep(due: Partial<Record<SweepResult['walk'], SweepResult['due']>>): Promise<void> {
  const walks = new Map<string, { cpuUs: number; tookMs: number; longestPartMs: number }>();
  let cpu = process.cpuUsage();
  await engine.sweep((walk, tookMs) => {
    const { user, system } = process.cpuUsage(cpu);
    cpu = process.cpuUsage();
    const sum = walks.get(walk) ?? { cpuUs: 0, tookMs: 0, longestPartMs: 0 };
    sum.cpuUs += user + system;
    sum.tookMs += tookMs;
    sum.longestPartMs = Math.max(sum.longestPartMs, tookMs);
    walks.set(walk, sum);
  });
  for (const [walk, what] of Object.entries(due) as [SweepResult['walk'], SweepResult['due']][]) {
    const { cpuUs, tookMs, longestPartMs } = walks.get(walk)!;
    sweeps.push({ walk, due: what, cpuMs: cpuUs / 1000, tookMs, longestPartMs });
  }
}

// The first one meets memory that this process never saw.
await engine.sweep();
await sweep({ sessions: 'none', pins: 'none' });
await engine.updateListener({ ...spec, idleTimeoutMs: 1 });
// What they leave behind is due when the walk over it comes.
await sweep({ sessions: 'all', reverse: 'all' });
assert.equal(engine.capacity().liveSessions, 0, 'not every session has ended');
await engine.updateListener({ ...spec, idleTimeoutMs: 1, pinTimeoutMs: 1 });
await sweep({ pins: 'all' });
assert.equal(engine.capacity().livePins, 0, 'not every pin was forgotten');
await engine.close();
libc.close(server);
process.stdout.write(`${JSON.stringify({ event: 'sweeps', sweeps })}\n`);
