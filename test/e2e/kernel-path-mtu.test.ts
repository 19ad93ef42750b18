/**
 * TCP through the kernel engine over paths that take less than its ends send at first: routers on both sides of the relay take less than the
 * links, and tell of it by ICMP ("fragmentation needed", "packet too big"). Only who learns of it gets its bytes across, and the one that
 * takes least is on the other side of the relay for both ends.
 *
 *     client -- near -- relay -- far -- server      each link a network of its own: 10.76.N.0/24, fd76:N::/64
 */
import { afterEach, expect, test } from 'vitest';
import { NetworkNamespace } from '../../bench/network-namespace.ts';
import { whyNoNamespaces } from '../../bench/network-bed.ts';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import type { TcpListenerStatus } from '../../relay/engines/engine.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfFileSystem } from '../support/bpffs.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

const unavailable = whyUnavailable() ?? whyNoNamespaces();

/** In a row; a link joins each to the next. */
const PLACES = ['client', 'near', 'relay', 'far', 'server'] as const;
type Place = (typeof PLACES)[number];

const SMALL_MTU = 1_300;
const OWN_SIDE_MTU = 1_400;
const BYTES = 2 * 1024 * 1024;

const SAY = 'const say = (event, rest) => console.log(JSON.stringify({ event, ...rest }));';

/** Sends back what it gets, its FIN after the client's. */
const ECHO = `
  ${SAY}
  const [, host, port] = process.argv;
  require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  }).listen(Number(port), host, () => say('ready'));
`;

/** Sends random bytes and compares the hashes of what it sent and got back. */
const CLIENT = `
  ${SAY}
  const [, host, port, bytes] = process.argv;
  const { createHash, randomBytes } = require('node:crypto');
  const [sent, received] = [createHash('sha256'), createHash('sha256')];
  const socket = require('node:net').connect({ host, port: Number(port), allowHalfOpen: true }, () => {
    const all = randomBytes(Number(bytes));
    sent.update(all);
    socket.end(all);
  });
  socket.on('data', (chunk) => received.update(chunk));
  socket.on('end', () => say('summary', { end: sent.digest('hex') === received.digest('hex') ? 'whole' : 'changed' }));
  socket.on('error', ({ code }) => say('summary', { end: code }));
`;

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: Stage;
  let places: ReadonlyMap<Place, NetworkNamespace>;
  afterEach(() => stage.close());

  const of = (place: Place): NetworkNamespace => places.get(place)!;
  /** On the link to the next place, or to the one before. */
  const addressOf = (place: Place, family: 4 | 6, side: 'next' | 'before'): string => {
    const link = PLACES.indexOf(place) + (side === 'next' ? 1 : 0);
    const host = side === 'next' ? 1 : 2;
    return family === 4 ? `10.76.${link}.${host}` : `fd76:${link}::${host}`;
  };
  const addresses = { client: 'next', near: 'next', relay: 'before', far: 'next', server: 'before' } as const;
  const address = (place: Place, family: 4 | 6): string => addressOf(place, family, addresses[place]);

  const build = async (): Promise<void> => {
    stage = new Stage();
    const made = PLACES.map((place, i) => [place, new NetworkNamespace(`${i}-${place}`)] as const);
    for (const [, namespace] of made) stage.closing({ close: () => namespace.remove() });
    places = new Map(made);
    for (const [i, place] of PLACES.slice(0, -1).entries()) {
      const next = PLACES[i + 1]!;
      const peer = ['peer', 'name', 'before0', 'netns', of(next).name];
      of(place).ip('link', 'add', 'next0', 'type', 'veth', ...peer);
      for (const [one, device, side] of [
        [place, 'next0', 'next'],
        [next, 'before0', 'before'],
      ] as const) {
        of(one).ip('addr', 'add', `${addressOf(one, 4, side)}/24`, 'dev', device);
        of(one).ip('addr', 'add', `${addressOf(one, 6, side)}/64`, 'dev', device, 'nodad');
        of(one).ip('link', 'set', device, 'up');
      }
    }
    for (const [i, place] of PLACES.entries()) route(place, i);
    await until('the links', () =>
      PLACES.every(
        (place) => !/state (?!UP|UNKNOWN)/.test(of(place).ip('-o', 'link', 'show', 'type', 'veth')),
      ),
    );
  };

  /** To each network that is not its own by the neighbour on that side; of what routers take less, least towards the ends. */
  const route = (place: Place, i: number): void => {
    const isHop = place === 'near' || place === 'far';
    if (i > 0 && i < PLACES.length - 1)
      of(place).run(
        'sh',
        '-c',
        'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
      );
    for (let link = 1; link < PLACES.length; link++) {
      const side = link <= i ? 'before' : 'next';
      const isOwn = link === i || link === i + 1;
      const neighbour = PLACES[side === 'next' ? i + 1 : i - 1]!;
      for (const family of [4, 6] as const) {
        const network = family === 4 ? `10.76.${link}.0/24` : `fd76:${link}::/64`;
        const via = isOwn ? [] : ['via', addressOf(neighbour, family, side === 'next' ? 'before' : 'next')];
        const isLast = (place === 'near' && link === 1) || (place === 'far' && link === PLACES.length - 1);
        const mtu = isHop ? ['mtu', `${isLast ? SMALL_MTU : OWN_SIDE_MTU}`] : [];
        if (isOwn && !isHop) continue;
        // In the place of the kernel's own route.
        const metric = isOwn && family === 6 ? ['metric', '256'] : [];
        of(place).ip(`-${family}`, 'route', 'replace', network, ...via, 'dev', `${side}0`, ...metric, ...mtu);
      }
    }
  };

  const startIn = (place: Place, script: string, ...args: readonly (string | number)[]): ManagedProcess =>
    stage.start(of(place).inside({ name: place, args: ['-e', script, ...args.map(String)] }));

  const CASES = (['client', 'relay'] as const).flatMap((sourceAddress) =>
    ([4, 6] as const).map((family) => [sourceAddress, family] as const),
  );

  test.each(CASES)(
    'with the address of the %s, over IPv%i, both ends learn what the path takes, and every byte comes back',
    async (sourceAddress, family) => {
      await build();
      const endpoint = (place: Place, port: number): string =>
        family === 4 ? `${address(place, 4)}:${port}` : `[${address(place, 6)}]:${port}`;
      const server = startIn('server', ECHO, address('server', family), 7000);
      await server.event('ready');
      const bpffs = stage.closing(new BpfFileSystem());
      const file = stage.writeFile('relay.yaml', {
        engine: 'kernel',
        kernel: { bpffs: bpffs.path, sourceAddress },
        listeners: [
          {
            name: 'login',
            protocol: 'tcp',
            listen: endpoint('relay', 5432),
            pool: 'logins',
            engine: 'kernel',
          },
        ],
        pools: { logins: { healthCheck: { type: 'none' }, backends: [endpoint('server', 7000)] } },
        shutdown: { deadline: '1s' },
      });
      const relay = stage.start(
        of('relay').inside(tickrelay('relay', ['relay', '--json', '--config', file])),
      );
      await relay.event('ready');
      const client = startIn('client', CLIENT, address('relay', family), 5432, BYTES);
      expect(await client.event('summary')).toEqual({ end: 'whole' });
      const seen =
        sourceAddress === 'client' ? address('client', family) : addressOf('relay', family, 'next');
      for (const [place, to] of [
        ['client', address('relay', family)],
        ['server', seen],
      ] as const)
        expect(of(place).ip(`-${family}`, 'route', 'get', to), place).toContain(`mtu ${SMALL_MTU} `);
      relay.signal('SIGTERM');
      const { tcp } = await relay.event('summary');
      expect((tcp as Record<string, TcpListenerStatus['counts']>)['login']).toMatchObject({
        downstreamBytes: BYTES,
        upstreamBytes: BYTES,
        droppedSegments: 0,
      });
    },
    60_000,
  );
}
