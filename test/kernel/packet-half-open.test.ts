/** Who makes room in a full table: the oldest session that its client has sent one datagram to and no more, whoever stands between. */
import { beforeEach, describe, expect, test } from 'vitest';
import { halfOpenPlaces } from '../../relay/engines/kernel/maps.ts';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { A, conversation } from './conversation.ts';
import { closing, DROP, MS, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

const STEPS = 10_000;

const client = (i: number): string => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}:5000`;

whereAvailable(() => {
  describe('a full table of ten thousand established sessions', () => {
    const rig = closing(new PacketRig({ maxSessions: 10_240 }));
    const { listen, send } = conversation(rig);

    test('gives up each half-open one, however many others stand before it, and then refuses', async () => {
      await listen([A]);
      let next = 1;
      const open = (count: number): readonly string[] =>
        Array.from({ length: count }, () => {
          const name = client(next++);
          expect(send(name).verdict).toBe(NEXT);
          return name;
        });
      const first = open(40);
      const established = open(10_000);
      // Not in their order, so that runs begin everywhere and grow together.
      for (const step of [0, 2, 1]) {
        for (let i = step; i < established.length; i += 3) send(established[i]!);
      }
      const last = open(200);
      expect(rig.gauges().sessions).toBe(10_240);
      const evicted = (): readonly string[] =>
        [...first, ...last].filter((name) => rig.session(name) === undefined);
      for (const count of [1, 39, 1, 100, 99]) {
        const newcomers = open(count);
        for (const name of newcomers) send(name);
        expect(evicted()).toEqual([...first, ...last].slice(0, evicted().length));
      }
      expect(evicted()).toHaveLength(240);
      expect(rig.counts()).toMatchObject({ sessionsEvicted: 240 });
      expect(rig.drops()).toEqual({});
      expect(established.filter((name) => rig.session(name) === undefined)).toEqual([]);
      expect(send(client(next)).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'session-table-full': 1 });
    });
  });

  describe.each([11, 16])('with room for %d sessions, over ten thousand random steps', (maxSessions) => {
    const rig = closing(new PacketRig({ maxSessions }));
    const { listen, send } = conversation(rig);
    beforeEach(() => rig.reset());

    test('the sessions are those of a model that has a plain list', async () => {
      await listen([A]);
      const random = new SeededBytes(`half-open ${maxSessions}`);
      /** In the order of their opening: by client, the number of the opening, and whether it is half-open. */
      const live = new Map<string, { readonly opening: number; isHalfOpen: boolean }>();
      let [openings, evicted, refused] = [0, 0, 0];
      const some = (): string | undefined => [...live.keys()][random.integer(Math.max(0, live.size - 1))];
      for (let step = 0; step < STEPS; step++) {
        rig.advance(MS);
        const dice = random.integer(99);
        const old = some();
        if (dice < 50 || old === undefined) {
          const name = client(step + 1);
          if (live.size === maxSessions) {
            // The ring remembers as many openings as it has places.
            const oldest = Array.from(live).find(
              ([, { opening, isHalfOpen }]) =>
                isHalfOpen && opening >= openings - halfOpenPlaces(maxSessions),
            )?.[0];
            if (oldest === undefined) {
              expect(send(name).verdict).toBe(DROP);
              refused++;
              continue;
            }
            live.delete(oldest);
            evicted++;
          }
          expect(send(name).verdict).toBe(NEXT);
          live.set(name, { opening: openings++, isHalfOpen: true });
        } else if (dice < 92) {
          send(old);
          live.get(old)!.isHalfOpen = false;
        } else {
          rig.steward.add('endSession', rig.sessionKey(old));
          expect(rig.steward.flush()).toBe(1);
          live.delete(old);
        }
        if (dice < 50)
          for (const name of live.keys()) expect(rig.session(name), `step ${step}`).toBeDefined();
        expect(rig.gauges().sessions, `step ${step}`).toBe(live.size);
      }
      expect(rig.counts().sessionsEvicted).toBe(evicted);
      expect(rig.drops()['session-table-full'] ?? 0).toBe(refused);
      expect(Math.min(evicted, refused)).toBeGreaterThan(100);
    });
  });
});
