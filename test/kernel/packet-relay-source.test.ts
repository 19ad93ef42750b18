/** sourceAddress `relay`: relay ports and replies to them, case by case. */
import { beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { PORT, PORT_RELAY, RULES, SOURCE_RELAY } from '../../relay/engines/kernel/records.ts';
import { A, B, CLIENT, LISTENER, conversation } from './conversation.ts';
import { closing, DROP, MS, NEXT, type Outcome, PacketRig, whereAvailable } from './packet-rig.ts';

whereAvailable(() => {
  const rig = closing(new PacketRig());
  beforeEach(() => rig.reset());
  const { send, answer, listen } = conversation(rig);

  describe('with the relay’s own address as source', () => {
    const RELAY = '198.51.100.1';
    const FIRST = 40_000;

    async function listenAsRelay(ports: number, backends = [A]): Promise<void> {
      await listen(backends, {
        rules: { sourceAddress: SOURCE_RELAY, firstRelayPort: FIRST, relayPorts: ports },
      });
      const { rules, ports: flags } = rig.maps.mapped;
      rules.bytes.set(Endpoint.parse(`${RELAY}:1`).ip.bytes, rules.at(0, RULES.at.relayV4));
      for (let port = FIRST; port < FIRST + ports; port++)
        flags.setU16(flags.at(port, PORT.at.flags), PORT_RELAY);
    }
    const reply = (backend: string, to: string): Outcome =>
      rig.ingress({ source: backend, destination: to, payload: new Uint8Array(14) });

    test('both addresses are rewritten, there and back', async () => {
      await listenAsRelay(16);
      const { packet } = send(CLIENT);
      const seen = Endpoint.parse(packet.source);
      expect(seen.ip.toString()).toBe(RELAY);
      expect(seen.port).toBeGreaterThanOrEqual(FIRST);
      expect(seen.port).toBeLessThan(FIRST + 16);
      expect(packet).toMatchObject({ destination: A, isHeaderRight: true });
      expect(packet.checksum).toBe(packet.rightChecksum);
      const back = reply(A, packet.source).packet;
      expect(back).toMatchObject({ source: LISTENER, destination: CLIENT, isHeaderRight: true });
      expect(back.checksum).toBe(back.rightChecksum);
      expect(rig.counts()).toMatchObject({
        downstream: { forwarded: 1 },
        upstream: { received: 1, forwarded: 1 },
      });
      expect(rig.session(CLIENT)).toMatchObject({ seenPort: seen.port, datagramsUpstream: 1 });
    });

    test('without an address towards the backend nothing is sent, and the session begins when there is one', async () => {
      await listenAsRelay(16);
      const { rules } = rig.maps.mapped;
      const at = rules.at(0, RULES.at.relayV4);
      rules.bytes.fill(0, at, at + 16);
      expect(send(CLIENT).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1 });
      rules.bytes.set(Endpoint.parse(`${RELAY}:1`).ip.bytes, at);
      const { packet } = send(CLIENT);
      expect(Endpoint.parse(packet.source).ip.toString()).toBe(RELAY);
      expect(reply(A, packet.source).packet.destination).toBe(CLIENT);
    });

    test('each session has a port of its own towards its backend', async () => {
      await listenAsRelay(16);
      const seen = Array.from({ length: 16 }, (_, i) => send(`10.0.0.${i + 1}:5000`).packet.source);
      expect(new Set(seen).size).toBe(16);
      seen.forEach((port, i) => {
        expect(reply(A, port).packet.destination).toBe(`10.0.0.${i + 1}:5000`);
      });
    });

    test('a stranger’s reply and another backend’s are counted drops', async () => {
      await listenAsRelay(16, [A, B]);
      const { source, destination } = send(CLIENT).packet;
      expect(reply('10.66.0.1:9000', source).verdict).toBe(DROP);
      expect(reply(destination === A ? B : A, source).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'unknown-upstream': 1, 'late-reply': 1 });
    });

    test('the reply on its way out of a local backend is left to where it comes in', async () => {
      await listenAsRelay(16);
      const { source } = send(CLIENT).packet;
      expect(answer(A, { to: source })).toMatchObject({ verdict: NEXT, packet: { source: A } });
      expect(rig.counts().upstream.received).toBe(0);
    });

    test('a relay port rests before another session has it', async () => {
      await listenAsRelay(1);
      const { source } = send(CLIENT).packet;
      rig.advance(120_000 * MS);
      rig.steward.add('expireSession', rig.sessionKey(CLIENT));
      rig.steward.flush();
      expect(send('10.0.0.2:5000').verdict).toBe(DROP);
      expect(reply(A, source).verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1, 'late-reply': 1 });
      rig.advance(30_000 * MS);
      expect(rig.endRests()).toBe(1);
      expect(send('10.0.0.2:5000').packet.source).toBe(source);
      expect(reply(A, source).packet.destination).toBe('10.0.0.2:5000');
    });

    test('when ports run short the oldest half-open session gives up its own, an established one none', async () => {
      await listenAsRelay(3);
      send('10.0.0.1:5000');
      send('10.0.0.1:5000');
      send('10.0.0.2:5000');
      rig.advance(MS);
      send('10.0.0.3:5000');
      rig.advance(MS);
      expect(send('10.0.0.4:5000').verdict).toBe(NEXT);
      expect(rig.session('10.0.0.2:5000')).toBeUndefined();
      expect(rig.counts().sessionsEvicted).toBe(1);
      for (const i of [3, 4]) send(`10.0.0.${i}:5000`);
      expect(send('10.0.0.5:5000').verdict).toBe(DROP);
      expect(rig.drops()).toEqual({ 'no-upstream-socket': 1 });
      expect(rig.gauges()).toMatchObject({ reverses: 3, resting: 0 });
    });

    test('what is sent to a relay port of another address is passed on', async () => {
      await listenAsRelay(16);
      const other = reply(A, '203.0.113.5:40000');
      expect(other).toMatchObject({ verdict: NEXT, packet: { destination: '203.0.113.5:40000' } });
      expect(rig.counts().upstream.received).toBe(0);
    });
  });
});
