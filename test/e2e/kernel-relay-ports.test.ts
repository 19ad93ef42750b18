/** With sourceAddress `relay`: many listeners, each with relay ports of its own, which a relay that takes over finds again. */
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { TcpClient } from '../support/tcp-client.ts';
import type { UdpPeer } from '../support/udp-peer.ts';

// In a network of this file's own: programs of a killed relay would else stay in everybody's way.
const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

const UDP_NAMES = Array.from({ length: 8 }, (_, i) => `game${i + 1}`);
const TCP_NAMES = Array.from({ length: 5 }, (_, i) => `login${i + 1}`);

/** What the relay's documentation says of eight listeners and the default range. */
const FIRST_PORTS = [61_000, 62_134, 62_985, 63_623, 64_102, 64_461, 64_730, 64_932, 65_083];

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  let backends: { readonly game: Endpoint; readonly login: Endpoint };

  beforeEach(async () => {
    stage = new KernelStage();
    // Both say from which port they are spoken to.
    const game = stage.peer('127.0.0.1:0', ({ from }) => Buffer.from(`${from.port}`));
    const login = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.on('data', () => socket.write(`${socket.remotePort} `));
    }).listen(0, '127.0.0.1');
    stage.closing({ close: () => void login.close() });
    await once(login, 'listening');
    const { port } = login.address() as AddressInfo;
    backends = { game: game.local, login: Endpoint.parse(`127.0.0.1:${port}`) };
  });
  afterEach(() => stage.close());

  interface Rest {
    readonly kernel?: object;
    /** Where the system does not choose the port. */
    readonly listens?: ReadonlyMap<string, Endpoint>;
    readonly admin?: string;
  }
  const config = (
    names: readonly string[],
    { kernel = {}, listens = new Map(), admin = '127.0.0.1:0' }: Rest = {},
  ): object => ({
    name: 'many',
    engine: 'kernel',
    kernel: { bpffs: stage.bpffs.path, sourceAddress: 'relay', ...kernel },
    listeners: names.map((name) => ({
      name,
      protocol: name.startsWith('game') ? 'udp' : 'tcp',
      listen: listens.get(name)?.toString() ?? '127.0.0.1:0',
      pool: name.replace(/\d/, ''),
    })),
    pools: Object.fromEntries(
      Object.entries(backends).map(([pool, backend]) => [
        pool,
        { healthCheck: { type: 'none' }, backends: [backend.toString()] },
      ]),
    ),
    admin: { listen: admin },
    shutdown: { deadline: '100ms' },
  });

  /** The relay port of a player, as the backend sees it. */
  const portOf = async (player: UdpPeer, listener: Endpoint): Promise<number> =>
    Number((await player.ask(listener, 'x')).payload.toString());

  /** Whose ports they are, if the listeners came in order. */
  const shareOf = (port: number): number => FIRST_PORTS.findLastIndex((first) => first <= port);

  test('eight UDP listeners and five TCP listeners have ports apart, and a relay after kill -9 finds the same', async () => {
    const names = [...UDP_NAMES, ...TCP_NAMES];
    const first = await stage.relay(config(names));
    const players = UDP_NAMES.map((name) => ({ name, peer: stage.peer('127.9.0.1:0') }));
    const clients: TcpClient[] = [];
    for (const name of TCP_NAMES) clients.push(stage.closing(await TcpClient.connect(first.listener(name))));
    const portsNow = async (relay: RelayProcess): Promise<number[]> => {
      const ports = [];
      for (const { name, peer } of players) ports.push(await portOf(peer, relay.listener(name)));
      for (const client of clients) {
        const before = client.received.length;
        client.write('x');
        await expect.poll(() => client.received.toString().slice(before)).toMatch(/^\d+ $/);
        ports.push(Number(client.received.toString().slice(before)));
      }
      return ports;
    };
    const before = await portsNow(first);
    expect(before.map(shareOf)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4]);
    expect(first.process.stderr).not.toContain('"engine":"userspace"');

    first.process.signal('SIGKILL');
    await first.process.ended(20_000);
    const admin = first.admin.replace('http://', '');
    const listens = new Map(names.map((name) => [name, first.listener(name)]));
    const second = await stage.relay(config(names.toReversed(), { listens, admin }));
    expect(second.process.stderr).toContain('adopted 8 sessions and 5 TCP connections');
    expect(await portsNow(second)).toEqual(before);
    // Newcomers too get the ports that their listener had.
    for (const [i, name] of UDP_NAMES.entries())
      expect(shareOf(await portOf(stage.peer('127.9.0.2:0'), second.listener(name)))).toBe(i);
    expect(await second.metric('sessions_opened_total')).toBe(16);
  });

  test('a reload gives the ports of listeners that go to one that comes, and nobody else has others', async () => {
    const relay = await stage.relay(config(UDP_NAMES.slice(0, 4)));
    const player = stage.peer('127.9.0.1:0');
    const before = await portOf(player, relay.listener('game4'));
    const gone = await portOf(stage.peer('127.9.0.1:0'), relay.listener('game1'));
    expect([before, gone].map(shareOf)).toEqual([3, 0]);
    const probe = stage.peer('127.0.0.1:0');
    const listen = probe.local;
    await probe.close();
    const names = ['game3', 'game4', 'game9'];
    relay.writeConfig(config(names, { listens: new Map([['game9', listen]]) }));
    expect(await relay.reload()).toBe(true);
    expect(await portOf(player, relay.listener('game4'))).toBe(before);
    // Those of the first two together are the largest stretch by now.
    expect(shareOf(await portOf(stage.peer('127.9.0.1:0'), listen))).toBe(0);
    expect(await relay.metric('sessions', { listener: 'game4' })).toBe(1);
  });

  test('where no port is left, a listener is refused with what would be right, and the others stay', async () => {
    const kernel = { relayPorts: '61000-61001' };
    const names = ['game1', 'game2', 'login1', 'login2'];
    const relay = await stage.relay(config(names, { kernel }));
    for (const [one, protocol] of [
      ['game3', 'UDP'],
      ['login3', 'TCP'],
    ] as const) {
      relay.writeConfig(config([...names, one], { kernel }));
      expect(await relay.reload()).toBe(false);
      const why = `kernel.relayPorts: 61000-61001 has no port left for ${protocol} listener \\"${one}\\"`;
      expect(relay.process.stderr).toContain(why);
    }
    expect(await portOf(stage.peer('127.9.0.1:0'), relay.listener('game2'))).toBe(61_001);
    const client = stage.closing(await TcpClient.connect(relay.listener('login2')));
    client.write('x');
    await expect.poll(() => client.received.toString()).toBe('61001 ');
  });
}
