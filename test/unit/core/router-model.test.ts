import assert from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'vitest';
import { slotOf } from '../../../relay/core/backend-ref.ts';
import { ALGORITHMS } from '../../../relay/core/select.ts';
import { NaiveRouter } from '../../support/naive-router.ts';
import { changePool } from '../../support/pool-changes.ts';
import { NO_LIMITS, RouterRig, RULES } from './router-rig.ts';

// Steps of an eighth of a second and even rates keep every token count exact in binary.
const EPSILON_MS = 125;
const IPS = ['127.9.0.1', '127.9.0.2', '10.0.0.1', '2001:db8::1', '224.0.0.1', '0.0.0.0', '::'];
const BACKENDS = ['a', 'b', 'c', 'd', 'e'];

const datagram = fc.record({
  kind: fc.constant('datagram' as const),
  listener: fc.constantFrom('game', 'lobby'),
  ip: fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...IPS.slice(0, 4)) }, fc.constantFrom(...IPS)),
  port: fc.integer({ min: 0, max: 6 }),
});
const wait = fc.record({
  kind: fc.constant('wait' as const),
  ms: fc.constantFrom(
    ...[EPSILON_MS, 500, RULES.idleTimeoutMs - EPSILON_MS, RULES.idleTimeoutMs],
    ...[RULES.pinTimeoutMs - EPSILON_MS, RULES.pinTimeoutMs],
  ),
});
const change = fc.record({
  kind: fc.constant('change' as const),
  what: fc.constantFrom(
    'add',
    'remove',
    'unhealthy',
    'unhealthy',
    'healthy',
    'drain',
    'undrain',
    'disable',
    'enable',
    'all down',
  ),
  id: fc.constantFrom(...BACKENDS),
});
const step = fc.oneof(
  { weight: 20, arbitrary: datagram },
  { weight: 4, arbitrary: wait },
  { weight: 2, arbitrary: change },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('sweep' as const), budget: fc.constantFrom(1, 5, 40, 4_096) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('rules' as const, 'remove listener' as const) }),
  },
);
const setting = fc.record({
  algorithm: fc.constantFrom(...ALGORITHMS),
  sessionsPerSource: fc.constantFrom(0, 0, 2),
  sessionRatePerSource: fc.constantFrom(0, 0, 2),
  sessionRate: fc.constantFrom(0, 0, 4),
});

/** The naive router's sessions and pins that the sweep took, each with its time over; a whole sweep takes them all. */
function followSweep(
  rig: RouterRig,
  naive: NaiveRouter,
  { nowMs, whole }: { nowMs: number; whole: boolean },
): void {
  const sessions = rig.sessions();
  for (const key of [...naive.sessions.keys()]) {
    if (sessions.has(key)) assert(!whole || !naive.isIdle(key, nowMs), `${key} should be gone`);
    else {
      assert(naive.isIdle(key, nowMs), `${key} should live`);
      naive.expire(key, nowMs);
    }
  }
  const pins = rig.pins();
  for (const key of [...naive.pins.keys()]) {
    if (pins.has(key)) assert(!whole || !naive.isPinOver(key, nowMs), `pin ${key} should be gone`);
    else {
      assert(naive.isPinOver(key, nowMs), `pin ${key} should live`);
      naive.pins.delete(key);
    }
  }
}

function compare(rig: RouterRig, naive: NaiveRouter, nowMs: number): void {
  rig.check();
  const { router, view, pool } = rig;
  const sessions = rig.sessions();
  assert.deepEqual([...sessions.keys()].sort(), [...naive.sessions.keys()].sort());
  assert.deepEqual([...rig.pins().keys()].sort(), [...naive.pins.keys()].sort());
  for (const { id, slot } of pool.list()) assert.equal(view.live[slot], naive.live(id));
  for (const [key, id] of sessions) {
    const twin = naive.sessions.get(key)!;
    assert.equal(router.sessions.lastSeenMs(id), twin.lastSeenMs);
    assert.equal(router.sessions.datagramsDownstream(id), twin.datagrams);
    assert.equal(router.sessions.bytesDownstream(id), twin.bytes);
    const slot = slotOf(router.sessions.backendRef(id));
    assert.equal(router.mayReply(id, slot, nowMs), !twin.stay.over && !naive.isIdle(key, nowMs));
    assert.equal(router.mayReply(id, slot + 1, nowMs), false);
  }
}

test('the router decides and counts as its plain twin does, whatever comes', () => {
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 30, maxLength: 120, size: 'max' }),
      fc.tuple(setting, setting),
      (steps, settings) => {
        const rig = new RouterRig({ maxSessions: 64 });
        const naive = new NaiveRouter(rig.pool);
        naive.publish();
        const rulesOf = ([first, second]: typeof settings) =>
          new Map(
            [first, second].map(({ algorithm, ...limits }, i) => [
              i === 0 ? 'game' : 'lobby',
              { ...RULES, algorithm, limits: { ...NO_LIMITS, ...limits } },
            ]),
          );
        for (const [name, rules] of rulesOf(settings)) {
          rig.listen(name, rules);
          naive.setRules(name, rules);
        }
        let nowMs = 1_000_000;
        for (const action of steps) {
          if (action.kind === 'datagram') {
            const { listener, ip, port } = action;
            const expected = naive.route(listener, ip, port, 14, nowMs);
            assert.equal(
              rig.backend(rig.listeners.get(listener)!, ip, port, nowMs),
              expected,
              JSON.stringify(action),
            );
          } else if (action.kind === 'wait') nowMs += action.ms;
          else if (action.kind === 'sweep') {
            rig.router.sweep(action.budget, nowMs);
            followSweep(rig, naive, { nowMs, whole: action.budget === 4_096 });
          } else if (action.kind === 'change') {
            const { what, id } = action;
            changePool(rig.pool, { what, id, add: () => rig.add(id) });
            rig.publish();
            naive.publish();
          } else if (action.kind === 'rules') {
            for (const [name, rules] of rulesOf(settings)) {
              rig.listeners.get(name)!.apply(rules, nowMs);
              naive.setRules(name, rules);
            }
          } else {
            const lobby = rig.listeners.get('lobby')!;
            rig.router.removeListener(lobby, nowMs);
            rig.router.addListener(lobby);
            naive.removeListener('lobby');
          }
          compare(rig, naive, nowMs);
        }
        naive.checkTally([...rig.listeners.values()].map(({ counters }) => counters.dump()));
      },
    ),
    { numRuns: 80 },
  );
});
