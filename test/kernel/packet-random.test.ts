/** Packets with random damage: each is relayed, passed on or dropped, and the books balance. */
import { expect, test } from 'vitest';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { ETHERNET_BYTES, packet } from './packet.ts';
import { closing, DROP, MS, NEXT, PacketRig, whereAvailable } from './packet-rig.ts';

const PACKETS = 10_000;

whereAvailable(() => {
  const rig = closing(new PacketRig({ maxSessions: 32 }));

  const FAMILIES = {
    IPv4: {
      listener: '198.51.100.1:7777',
      backend: '10.9.0.1:9000',
      clients: ['10.0.0.1:5000', '10.0.0.2:6000'],
    },
    IPv6: {
      listener: '[2001:db8::99]:7777',
      backend: '[fd00::1]:9000',
      clients: ['[2001:db8::1]:5000', '[2001:db8::2]:5000'],
    },
  };

  test.each(Object.entries(FAMILIES))(
    '%s: received is forwarded plus dropped, whatever comes',
    async (name, of) => {
      const { listener, backend, clients } = of;
      await rig.reset();
      rig.listen(listener, { rules: { amplification: 2 } });
      await rig.backends(backend);
      const random = new SeededBytes(name);
      const verdicts = { ingress: { [NEXT]: 0, [DROP]: 0 }, egress: { [NEXT]: 0, [DROP]: 0 } };
      for (let i = 0; i < PACKETS; i++) {
        const client = clients[random.integer(clients.length - 1)]!;
        const program = random.integer(1) === 0 ? 'ingress' : 'egress';
        const [source, destination] = program === 'ingress' ? [client, listener] : [backend, client];
        const bytes = Buffer.from(packet({ source, destination, payload: random.bytes(random.integer(60)) }));
        for (let damage = random.integer(3); damage > 0; damage--) {
          const headers = Math.min(bytes.length, ETHERNET_BYTES + 48);
          bytes[ETHERNET_BYTES + random.integer(headers - ETHERNET_BYTES - 1)] = random.integer(255);
        }
        const { verdict } = rig[program](bytes);
        expect([NEXT, DROP]).toContain(verdict);
        verdicts[program][verdict as typeof NEXT | typeof DROP]++;
      }
      const { downstream, upstream, sessionsOpened, sessionsExpired, sessionsEvicted } = rig.counts();
      for (const { received, forwarded, dropped } of [downstream, upstream]) {
        const drops = Object.values(dropped).reduce((sum, count) => sum + count, 0);
        expect(forwarded + drops).toBe(received);
        expect(forwarded).toBeGreaterThan(0);
        expect(drops).toBeGreaterThan(0);
      }
      for (const { [NEXT]: next, [DROP]: drop } of Object.values(verdicts)) {
        expect(next).toBeGreaterThan(0);
        expect(drop).toBeGreaterThan(0);
      }
      rig.advance(30_000 * MS);
      rig.endRests();
      const { sessions, pins, reverses, resting } = rig.gauges();
      expect(sessions).toBe(sessionsOpened - sessionsExpired - sessionsEvicted);
      expect(sessions).toBeLessThanOrEqual(32);
      expect(pins).toBeLessThanOrEqual(64);
      expect(resting).toBe(0);
      expect(reverses).toBeLessThanOrEqual(sessions);
      expect(rig.live('a')).toBe(sessions);
    },
  );
});
