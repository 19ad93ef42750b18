/** What a relay of this name left that the next one was not asked for: in which order it goes. */
import { type AddressInfo, createServer } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { MAX_KERNEL_POOLS } from '../../relay/core/limits.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfMap } from '../../relay/engines/kernel/bpf-map.ts';
import { PinDirectory } from '../../relay/engines/kernel/bpffs.ts';
import { KernelEngine } from '../../relay/engines/kernel/kernel-engine.ts';
import { KernelPools } from '../../relay/engines/kernel/kernel-pools.ts';
import { ListenerTable } from '../../relay/engines/kernel/listener-table.ts';
import { TcpListenerTable } from '../../relay/engines/kernel/tcp-listener-table.ts';
import { TCP_LISTENER_STATE, tcpMapSpecs } from '../../relay/engines/kernel/tcp-maps.ts';
import { RULES } from '../contract/engine-harness.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { poolOfOne } from '../support/pool-of-one.ts';
import { TcpClient } from '../support/tcp-client.ts';
import { until } from '../support/until.ts';
import { listenerSpec } from '../unit/tcp/tcp-bench.ts';

const NAME = 'inherited';
const LOCAL = Endpoint.parse('127.0.0.1:0');
const MAX_SESSIONS = 2_000;
const CLAIM_MS = 10_000;

const PLAYERS = 3;
/** More than one step of a walk takes, so that others have their turn before all of them are cut. */
const CONNECTIONS = 700;

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  let before: KernelEngine;
  beforeEach(() => {
    stage = new KernelStage();
    before = stage.closing(start());
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await stage.close();
  });

  const start = (): KernelEngine =>
    new KernelEngine({
      libc: stage.bpf.libc,
      name: NAME,
      maxSessions: MAX_SESSIONS,
      hashSeed: 0,
      interfaces: ['lo'],
      bpffs: stage.bpffs.path,
      keepAttached: true,
    });
  const publish = (name: string, backend: Endpoint) => before.publish(poolOfOne(name, backend).snapshot());
  /** Of the one TCP listener that there is. */
  const openConnections = (): number => {
    const spec = tcpMapSpecs({ maxSessions: MAX_SESSIONS, maxPools: MAX_KERNEL_POOLS }).tcp_state;
    const { bpf, bpffs } = stage;
    const map = new BpfMap(bpf, spec, bpf.open(new PinDirectory(bpffs.path, NAME).mapPath(spec.name))!);
    const state = new Uint8Array(TCP_LISTENER_STATE.size);
    map.lookupAt(0, state);
    map.close();
    return new DataView(state.buffer).getUint32(TCP_LISTENER_STATE.at.open, true);
  };
  /** The relay before this one ends, and the next one, which is asked for no listener, has waited for long enough. */
  const succeed = async (): Promise<KernelEngine> => {
    await before.takeOver();
    await before.close();
    const engine = stage.closing(start());
    vi.useFakeTimers({ toFake: ['setTimeout'] });
    await engine.takeOver();
    return engine;
  };
  /** That nobody claims the listeners is found. @returns what `look` sees when their indexes are freed, and when the pools are let go */
  const whenTheyGo = <T>(
    table: { free(index: number): void },
    look: () => T,
  ): Promise<{ readonly whenFreed: readonly T[]; readonly whenPoolsGo: T }> => {
    const whenFreed: T[] = [];
    vi.spyOn(table, 'free').mockImplementation(() => void whenFreed.push(look()));
    const seen = new Promise<{ whenFreed: T[]; whenPoolsGo: T }>((resolve) => {
      vi.spyOn(KernelPools.prototype, 'letGoInherited').mockImplementation(() => {
        resolve({ whenFreed, whenPoolsGo: look() });
        return Promise.resolve();
      });
    });
    vi.advanceTimersByTime(CLAIM_MS);
    vi.useRealTimers();
    return seen;
  };

  test('indexes and pools go after the sessions and pins of listeners that nobody claims', async () => {
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    await publish('game', server.local);
    const game = await before.addListener({ name: 'game', listen: LOCAL, pool: 'game', ...RULES });
    for (let i = 0; i < PLAYERS; i++) await stage.peer(`127.9.0.${i + 1}:0`).ask(game, 'x');
    const engine = await succeed();
    const left = { liveSessions: PLAYERS, livePins: PLAYERS };
    expect(engine.capacity()).toMatchObject(left);
    const none = expect.objectContaining({ liveSessions: 0, livePins: 0 }) as unknown;
    const seen = await whenTheyGo(ListenerTable.prototype, () => engine.capacity());
    expect(seen).toEqual({ whenFreed: [none], whenPoolsGo: none });
  });

  test('indexes and pools go after the connections of TCP listeners that nobody claims', async () => {
    const backend = createServer((socket) => socket.on('error', () => undefined).resume());
    stage.closing({ close: () => void backend.close() });
    backend.listen(0, '127.0.0.1');
    await until('the backend', () => backend.listening);
    await publish('logins', Endpoint.parse(`127.0.0.1:${(backend.address() as AddressInfo).port}`));
    const login = await before.tcp.addListener({ ...listenerSpec(), listen: LOCAL, pool: 'logins' });
    for (let i = 0; i < CONNECTIONS; i++) stage.closing(await TcpClient.connect(login));
    await until('all connections', () => openConnections() === CONNECTIONS);
    await succeed();
    expect(openConnections()).toBe(CONNECTIONS);
    const seen = await whenTheyGo(TcpListenerTable.prototype, openConnections);
    expect(seen).toEqual({ whenFreed: [0], whenPoolsGo: 0 });
  });
}
