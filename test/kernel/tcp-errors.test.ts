/**
 * ICMP errors about relayed segments: whoever had sent the segment gets the error as it would be without a relay between, to the
 * byte. What is expected is made from nothing, out of the segment as its sender had sent it.
 */
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { type ErrorOptions, icmpError } from './icmp.ts';
import { eachCut, ETHERNET_BYTES } from './packet.ts';
import { NEXT, unavailable } from './packet-rig.ts';
import { ACK, segment, type SegmentOptions, SYN } from './segment.ts';
import { Conversation } from './tcp-conversation.ts';
import { TcpRig } from './tcp-rig.ts';

/** What lies between, and whose address the backend sees. */
const CASES = (['client', 'relay'] as const).flatMap((sourceAddress) =>
  ([4, 6] as const).flatMap((family) =>
    (['backend', 'client'] as const).map((to) => ({ sourceAddress, family, to })),
  ),
);
type Case = (typeof CASES)[number];

const ENDS = {
  4: {
    client: '203.0.113.9:40000',
    listener: '198.51.100.7:5432',
    backend: '10.9.0.1:6432',
    router: '10.66.0.1',
  },
  6: {
    client: '[2001:db8:1::9]:40000',
    listener: '[2001:db8::7]:5432',
    backend: '[2001:db8:9::1]:6432',
    router: '[2001:db8:66::1]',
  },
} as const;

const TOO_BIG = { 4: { type: 3, code: 4, mtu: 1_280 }, 6: { type: 2, mtu: 1_280 } } as const;
const IP_BYTES = { 4: 20, 6: 40 } as const;
const PORTS = 4;
const CHECKSUM_AT = 16;

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const rig = new TcpRig();
  afterAll(() => rig.close());
  let one: Conversation;

  const start = async ({ sourceAddress, family }: Case): Promise<void> => {
    const { client, listener, backend } = ENDS[family];
    await rig.reset();
    rig.listen(listener, sourceAddress === 'relay' ? { relayPorts: 16 } : {});
    await rig.backends(backend);
    one = new Conversation(rig, client, listener).open();
    expect(one.state).toBe('open');
  };

  const addressOf = (endpoint: string): string => endpoint.slice(0, endpoint.lastIndexOf(':'));
  const fromIp = (frame: Uint8Array): Uint8Array => frame.slice(ETHERNET_BYTES);

  /** Who sent the segment to whom, as the sender knows it. */
  const sentBy = ({ to }: Case): [source: string, destination: string] =>
    to === 'backend' ? [one.client, one.contacted] : [one.backend, one.seen];

  /** A segment as its sender sends it, and as the relay passes it on; from the IP header on. */
  const passOn = (of: Case, rest: Partial<SegmentOptions> = {}): { sent: Uint8Array; passed: Uint8Array } => {
    const [source, destination] = sentBy(of);
    const numbers =
      of.to === 'backend'
        ? { sequence: one.clientNext, acknowledged: one.backendNext }
        : { sequence: one.backendNext, acknowledged: one.clientNext };
    const payload = Buffer.alloc(33, 'payload');
    const sent = segment({ source, destination, flags: ACK, payload, ...numbers, ...rest });
    const hook = of.to === 'client' && of.sourceAddress === 'client' ? 'egress' : 'ingress';
    const outcome = rig[hook](sent);
    expect(outcome).toMatchObject({ verdict: NEXT, segment: { isRight: true } });
    expect(outcome.bytes).not.toEqual(sent);
    return { sent: fromIp(sent), passed: fromIp(outcome.bytes) };
  };

  /** Where the error about a segment passes the programs on its way to that segment's sender. */
  const hookOf = ({ sourceAddress, to }: Case): 'ingress' | 'egress' =>
    sourceAddress === 'client' && to === 'backend' ? 'egress' : 'ingress';

  /** The error as a router sends it, to the one in whose name the relay had sent the segment. */
  const routersError = (of: Case, quoted: Uint8Array, rest: Partial<ErrorOptions> = {}): Uint8Array => {
    const to = of.to === 'backend' ? one.seen : one.contacted;
    return icmpError({
      from: ENDS[of.family].router,
      to: addressOf(to),
      ...TOO_BIG[of.family],
      ...rest,
      quoted,
    });
  };
  /** The error as the segment's sender is to get it. */
  const translated = (of: Case, quoted: Uint8Array, rest: Partial<ErrorOptions> = {}): Uint8Array => {
    const [sender, receiver] = sentBy(of);
    const ends = { from: addressOf(receiver), to: addressOf(sender) };
    return icmpError({ ...ends, ...TOO_BIG[of.family], ...rest, quoted });
  };
  const expectPassedOn = (of: Case, error: Uint8Array, wanted: Uint8Array, what?: string): void => {
    const { verdict, bytes } = rig[hookOf(of)](error);
    expect([verdict, Buffer.from(bytes).toString('hex')], what).toEqual([
      NEXT,
      Buffer.from(wanted).toString('hex'),
    ]);
  };

  describe.each(CASES)('sourceAddress $sourceAddress, IPv$family, about what was sent to the $to', (of) => {
    beforeEach(() => start(of));

    test('however much of the segment is quoted, from its ports on, the sender gets the error about its own', () => {
      const { sent, passed } = passOn(of);
      for (let bytes = IP_BYTES[of.family] + PORTS; bytes <= sent.length; bytes++) {
        const [asked, wanted] = [passed.subarray(0, bytes), Uint8Array.from(sent.subarray(0, bytes))];
        // Half a checksum can't be mended.
        if (bytes === IP_BYTES[of.family] + CHECKSUM_AT + 1) wanted[bytes - 1] = asked[bytes - 1]!;
        expectPassedOn(of, routersError(of, asked), translated(of, wanted), `${bytes} bytes quoted`);
      }
    });

    test('less than that passes untouched, and so does an error that is cut off anywhere', () => {
      const { passed } = passOn(of);
      for (let bytes = 0; bytes < IP_BYTES[of.family] + PORTS; bytes++) {
        const error = routersError(of, passed.subarray(0, bytes));
        expectPassedOn(of, error, error, `${bytes} bytes quoted`);
      }
      const whole = routersError(of, passed);
      const taken = eachCut(whole, (cut) => {
        const { verdict, bytes } = rig[hookOf(of)](cut);
        return () => expect([verdict, Buffer.from(bytes)]).toEqual([NEXT, Buffer.from(cut)]);
      });
      expect(taken).toBeGreaterThan(passed.length);
    });

    test('every kind of error is passed on, and whatever the payload and the numbers', () => {
      const kinds = of.family === 4 ? [3, 11, 12] : [1, 2, 3, 4];
      for (const type of kinds) {
        for (let i = 0; i < 40; i++) {
          const payload = Buffer.alloc(i, (i * 37) % 251);
          const { sent, passed } = passOn(of, { payload, sequence: i * 0x0123_4567, acknowledged: i });
          const rest = { type, code: i % 6, mtu: i * 999 };
          expectPassedOn(of, routersError(of, passed, rest), translated(of, sent, rest), `${type}, ${i}`);
        }
      }
    });

    test('what comes behind the error’s end, as padding, is not taken for a part of it', () => {
      const { sent, passed } = passOn(of);
      const bytes = IP_BYTES[of.family] + 8;
      const rest = { padding: 40 };
      const asked = routersError(of, passed.subarray(0, bytes), rest);
      expectPassedOn(of, asked, translated(of, sent.subarray(0, bytes), rest));
    });

    test.each([
      [
        'is to another than the quoted segment’s source',
        { to: { 4: '198.51.100.250', 6: '[2001:db8::250]' } },
      ],
      ['is no error', { type: { 4: 0, 6: 129 } }],
      ['is a redirect', { type: { 4: 5, 6: 137 } }],
    ] as const)(
      'what %s passes untouched',
      (_what, { to, type }: { to?: Record<4 | 6, string>; type?: Record<4 | 6, number> }) => {
        const { passed } = passOn(of);
        const error = routersError(of, passed, {
          ...(to === undefined ? {} : { to: to[of.family] }),
          ...(type === undefined ? {} : { type: type[of.family] }),
        });
        expectPassedOn(of, error, error);
      },
    );

    test('a quotation of another connection, or of another protocol, passes untouched', () => {
      const { passed } = passOn(of);
      const at = IP_BYTES[of.family];
      for (const [offset, value] of [
        [at, passed[at]! ^ 0x40],
        [at + 3, passed[at + 3]! ^ 1],
        [of.family === 4 ? 9 : 6, 132],
      ] as const) {
        const quoted = Uint8Array.from(passed);
        quoted[offset] = value;
        const error = routersError(of, quoted);
        expectPassedOn(of, error, error, `byte ${offset}`);
      }
    });
  });

  describe.each(CASES.filter(({ family }) => family === 4))(
    'sourceAddress $sourceAddress, to the $to',
    (of) => {
      beforeEach(() => start(of));

      test('options in both IP headers are passed over', () => {
        const ipOptions = new Uint8Array(40).fill(1);
        const tcpOptions = new Uint8Array(40).fill(1);
        const { sent, passed } = passOn(of, { ipOptions, tcpOptions });
        for (const bytes of [60 + PORTS, 60 + 8, 60 + 18, sent.length]) {
          const [asked, wanted] = [passed.subarray(0, bytes), sent.subarray(0, bytes)];
          expectPassedOn(of, routersError(of, asked, { ipOptions }), translated(of, wanted, { ipOptions }));
        }
      });

      test('a fragment of an error, or an error about a later fragment, passes untouched', () => {
        const { passed } = passOn(of);
        for (const fragment of [0x2000, 0x0001]) {
          const error = routersError(of, passed, { fragment });
          expectPassedOn(of, error, error);
        }
        passed[7] = 1;
        const error = routersError(of, passed);
        expectPassedOn(of, error, error);
      });

      test('a quoted header that contradicts itself passes untouched', () => {
        for (const first of [0x41, 0x4f]) {
          const { passed } = passOn(of);
          passed[0] = first;
          const error = routersError(of, passed.subarray(0, 44));
          expectPassedOn(of, error, error);
        }
      });
    },
  );

  test('who is refused while opening hears of it', async () => {
    const of = CASES[0]!;
    await start(of);
    const { listener, client, backend } = ENDS[4];
    const other = client.replace('40000', '40001');
    const syn = segment({ source: other, destination: listener, flags: SYN, sequence: 7 });
    const passed = fromIp(rig.ingress(syn).bytes);
    const rest = { type: 3, code: 13, from: addressOf(backend) };
    const { verdict, bytes } = rig.egress(routersError(of, passed.subarray(0, 28), rest));
    const wanted = icmpError({
      ...rest,
      from: addressOf(listener),
      to: addressOf(other),
      mtu: TOO_BIG[4].mtu,
      quoted: fromIp(syn).subarray(0, 28),
    });
    expect([verdict, Buffer.from(bytes)]).toEqual([NEXT, Buffer.from(wanted)]);
  });

  test('an error about a connection that nobody has is the system’s', async () => {
    const of = CASES[0]!;
    await start(of);
    const { listener, client, router } = ENDS[4];
    const stranger = segment({ source: listener, destination: client.replace('40000', '1'), flags: ACK });
    const error = icmpError({
      from: router,
      to: Endpoint.parse(listener).ip.toString(),
      ...TOO_BIG[4],
      quoted: fromIp(stranger),
    });
    for (const hook of ['ingress', 'egress'] as const) {
      const { verdict, bytes } = rig[hook](error);
      expect([verdict, Buffer.from(bytes)]).toEqual([NEXT, Buffer.from(error)]);
    }
  });
}
