/** The packet programs decide as the plain router of test/support does, whatever comes, and their replies find the way back. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'vitest';
import { ALGORITHMS } from '../../relay/core/select.ts';
import { NaiveRouter } from '../support/naive-router.ts';
import { changePool } from '../support/pool-changes.ts';
import { closing, DROP, MS, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

const IDLE_MS = 1_000;
const PIN_MS = 3_000;
// Steps of an eighth of a second and even rates keep every token count exact.
const EPSILON_MS = 125;
const LISTENERS = { game: '198.51.100.1:7777', lobby: '198.51.100.1:8888' };
const IPS = ['127.9.0.1', '127.9.0.2', '10.0.0.1', '192.168.7.8', '224.0.0.1', '0.0.0.0'];
const BACKENDS: Readonly<Record<string, string>> = {
  a: '10.9.0.1:9000',
  b: '10.9.0.2:9000',
  c: '10.9.0.1:9001',
  d: '10.9.0.4:7777',
};

const datagram = fc.record({
  kind: fc.constant('datagram' as const),
  listener: fc.constantFrom('game' as const, 'lobby' as const),
  ip: fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...IPS.slice(0, 4)) }, fc.constantFrom(...IPS)),
  port: fc.integer({ min: 0, max: 6 }),
});
const wait = fc.record({
  kind: fc.constant('wait' as const),
  ms: fc.constantFrom(EPSILON_MS, 500, IDLE_MS - EPSILON_MS, IDLE_MS, PIN_MS - EPSILON_MS, PIN_MS),
});
const change = fc.record({
  kind: fc.constant('change' as const),
  what: fc.constantFrom('add', 'remove', 'unhealthy', 'healthy', 'drain', 'undrain', 'all down'),
  id: fc.constantFrom(...Object.keys(BACKENDS)),
  weight: fc.constantFrom(1, 1, 3),
});
const step = fc.oneof(
  { weight: 20, arbitrary: datagram },
  { weight: 4, arbitrary: wait },
  { weight: 2, arbitrary: change },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('sweep' as const) }) },
);
const setting = fc.record({
  algorithm: fc.constantFrom(...ALGORITHMS),
  sessionsPerSource: fc.constantFrom(0, 0, 2),
  sessionRatePerSource: fc.constantFrom(0, 0, 2),
  sessionRate: fc.constantFrom(0, 0, 4),
});
type Setting = typeof setting extends fc.Arbitrary<infer T> ? T : never;

function listen(rig: PacketRig, name: keyof typeof LISTENERS, index: number, setting: Setting): void {
  const token = (rate: number): number => (rate === 0 ? 0 : (1_000 * MS) / rate);
  const { algorithm, sessionsPerSource, sessionRatePerSource, sessionRate } = setting;
  rig.listen(
    LISTENERS[name],
    {
      algorithm,
      rules: {
        idleTimeoutNs: IDLE_MS * MS,
        pinTimeoutNs: PIN_MS * MS,
        sessionsPerSource,
        sourceTokenNs: token(sessionRatePerSource),
        sourceBurstNs: token(sessionRatePerSource) * (sessionRatePerSource - 1),
        listenerTokenNs: token(sessionRate),
        listenerBurstNs: token(sessionRate) * (sessionRate - 1),
      },
    },
    index,
  );
}

/** Id of the backend that a datagram goes to, or the reason of its drop; and its reply must come back. */
function route(
  rig: PacketRig,
  { listener, ip, port }: { listener: keyof typeof LISTENERS; ip: string; port: number },
): string {
  const index = listener === 'game' ? 0 : 1;
  const client = `${ip}:${port}`;
  const payload = new Uint8Array(14);
  const before = rig.drops(index);
  const there = rig.ingress({ source: client, destination: LISTENERS[listener], payload });
  if (there.verdict === DROP) {
    const after = Object.entries(rig.drops(index));
    const risen = after.filter(([reason, count]) => count !== (before[reason] ?? 0));
    assert.equal(risen.length, 1);
    return risen[0]![0];
  }
  const { destination } = there.packet;
  const back = rig.egress({ source: destination, destination: client, payload });
  assert.equal(back.verdict, NEXT);
  assert.equal(back.packet.source, LISTENERS[listener]);
  return Object.keys(BACKENDS).find((id) => BACKENDS[id] === destination)!;
}

/** One whole sweep, in both. */
function sweep(rig: PacketRig, naive: NaiveRouter, nowMs: number): void {
  const indexOf = (name: string): number => (name === 'game' ? 0 : 1);
  for (const [key, { listener, ip, port }] of [...naive.sessions]) {
    rig.steward.add('expireSession', rig.sessionKey(`${ip}:${port}`, indexOf(listener)));
    const done = rig.steward.flush();
    assert.equal(done, naive.isIdle(key, nowMs) ? 1 : 0, `session ${key}`);
    if (done === 1) naive.expire(key, nowMs);
  }
  for (const key of [...naive.pins.keys()]) {
    const [listener, ip] = key.split(' ') as [string, string];
    rig.steward.add('expirePin', rig.pinKey(ip, indexOf(listener)));
    const done = rig.steward.flush();
    assert.equal(done, naive.isPinOver(key, nowMs) ? 1 : 0, `pin ${key}`);
    if (done === 1) naive.pins.delete(key);
  }
}

function compare(rig: PacketRig, naive: NaiveRouter): void {
  assert.equal(rig.gauges().sessions, naive.sessions.size);
  assert.equal(rig.gauges().pins, naive.pins.size);
  for (const { id } of rig.pool.list()) assert.equal(rig.live(id), naive.live(id), `live sessions of ${id}`);
  for (const { listener, ip, port, datagrams, bytes } of naive.sessions.values()) {
    const session = rig.session(`${ip}:${port}`, listener === 'game' ? 0 : 1);
    assert.equal(session?.datagramsDownstream, datagrams);
    assert.equal(session.bytesDownstream, bytes);
  }
}

whereAvailable(() => {
  const rig = closing(new PacketRig());

  test('the same answers as the plain router, whatever comes', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 30, maxLength: 100, size: 'max' }),
        fc.tuple(setting, setting),
        async (steps, [first, second]) => {
          await rig.reset();
          const naive = new NaiveRouter(rig.pool);
          naive.publish();
          for (const [index, [name, each]] of [
            ['game', first] as const,
            ['lobby', second] as const,
          ].entries()) {
            const { algorithm, ...limits } = each;
            listen(rig, name, index, each);
            naive.setRules(name, {
              algorithm,
              idleTimeoutMs: IDLE_MS,
              pinTimeoutMs: PIN_MS,
              limits: { amplification: 0, ...limits },
            });
          }
          let nowMs = 0;
          for (const action of steps) {
            if (action.kind === 'datagram') {
              const { listener, ip, port } = action;
              const expected = naive.route(listener, ip, port, 14, nowMs);
              assert.equal(route(rig, action), expected, JSON.stringify(action));
            } else if (action.kind === 'wait') {
              nowMs += action.ms;
              rig.advance(action.ms * MS);
            } else if (action.kind === 'sweep') sweep(rig, naive, nowMs);
            else {
              const { what, id, weight } = action;
              changePool(rig.pool, { what, id, add: () => rig.add(id, BACKENDS[id]!, weight) });
              await rig.publish();
              naive.publish();
            }
            compare(rig, naive);
          }
          naive.checkTally([rig.counts(0), rig.counts(1)]);
        },
      ),
      { numRuns: 100 },
    );
  });
});
