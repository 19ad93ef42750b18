/** A relay that fails on its way up: nothing that is open by then may stay so. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { Endpoint } from '../../../net/address.ts';
import { openDgramSocket } from '../../../net/dgram-socket.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { parseConfig, type RelayConfig } from '../../../relay/control/config.ts';
import { ControlPlane } from '../../../relay/control/control-plane.ts';
import { MmsgEngine } from '../../../relay/engines/mmsg/mmsg-engine.ts';
import { UserspaceEngine } from '../../../relay/engines/userspace/userspace-engine.ts';
import { Relay } from '../../../relay/relay.ts';
import { TcpEngine } from '../../../relay/tcp/tcp-engine.ts';
import { ThreadedTcpEngine } from '../../../relay/tcp/worker/threaded-tcp-engine.ts';

afterEach(() => vi.restoreAllMocks());

const logger = pino({ level: 'silent' });

const configOf = (engine: string, game: string, admin: string): RelayConfig =>
  parseConfig(`
engine: ${engine}
workers: 2
listeners: [ { name: game, protocol: udp, listen: "${game}", pool: servers } ]
pools: { servers: { backends: [ "10.0.0.3:7777" ], healthCheck: { type: none } } }
admin: { listen: "${admin}" }
`).config;

/** The UDP engine and the TCP side that go with the engine. */
const PLANES = {
  dgram: [UserspaceEngine, TcpEngine],
  mmsg: [MmsgEngine, ThreadedTcpEngine],
} as const;

test.each(['unavailable' in loadLibc() ? [] : ['mmsg' as const], 'dgram' as const].flat())(
  'both planes are closed when what comes after them can’t be made: %s',
  async (name) => {
    const closes = PLANES[name].map(({ prototype }) => vi.spyOn(prototype, 'close'));
    const config = configOf(name, '127.0.0.1:0', '127.0.0.1:0');
    // A configuration that was checked has none twice; whatever else may throw there has the same way out.
    const pools = config.pools.map((pool) => ({ ...pool, backends: [...pool.backends, ...pool.backends] }));
    await expect(Relay.open({ config: { ...config, pools }, logger })).rejects.toThrow('already in the pool');
    expect(closes.map((close) => close.mock.settledResults)).toEqual([
      [{ type: 'fulfilled', value: undefined }],
      [{ type: 'fulfilled', value: undefined }],
    ]);
  },
);

test('a start that fails frees its addresses and tells why, also when another part can’t be closed', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const admin = `127.0.0.1:${(other.address() as { port: number }).port}`;
  const open = (local: string) =>
    openDgramSocket({ local: Endpoint.parse(local), onReceive: () => undefined });
  const free = open('127.77.1.1:0');
  await free.close();
  const game = free.local.toString();
  const closeControl = vi.spyOn(ControlPlane.prototype, 'close');
  closeControl.mockRejectedValueOnce(new Error('it can’t'));
  try {
    const relay = await Relay.open({ config: configOf('dgram', game, admin), logger });
    await expect(relay.start()).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_BIND',
      message: expect.stringContaining(admin) as string,
    });
    const again = open(game);
    expect(again.local.toString()).toBe(game);
    await again.close();
  } finally {
    other.close();
  }
});
