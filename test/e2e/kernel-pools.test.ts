/** A relay in the kernel whose pools come and go by reloads, more of them than it has places for, also at a time; and a restart after that. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { tickrelay } from '../../bench/process-group.ts';
import type { Endpoint } from '../../net/address.ts';
import { MAX_KERNEL_POOLS } from '../../relay/core/limits.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import type { UdpPeer } from '../support/udp-peer.ts';

const RELOADS = 100;

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;

  beforeEach(() => {
    stage = new KernelStage();
  });
  afterEach(() => stage.close());

  /** A server that answers its name. */
  const server = (name: string): UdpPeer => stage.peer('127.0.0.1:0', () => Buffer.from(name));

  /** The listener `game` stays; the listener `arena` has the pool with this number. */
  const config = (options: {
    readonly listen: readonly [game: string, arena: string];
    readonly game: Endpoint;
    readonly arena: Endpoint;
    readonly number: number;
  }): object => {
    const { listen, game, arena, number } = options;
    return {
      name: 'tickrelay',
      engine: 'kernel',
      kernel: { bpffs: stage.bpffs.path, sourceAddress: 'client' },
      admin: { listen: '127.0.0.1:0' },
      listeners: [
        { name: 'game', protocol: 'udp', listen: listen[0], pool: 'game-servers' },
        { name: 'arena', protocol: 'udp', listen: listen[1], pool: `arena-${number}` },
      ],
      pools: {
        'game-servers': { backends: [game.toString()] },
        [`arena-${number}`]: { backends: [arena.toString()] },
      },
    };
  };

  test('pools come and go by reloads without end, also after a restart, and other players notice nothing', async () => {
    expect(RELOADS).toBeGreaterThan(MAX_KERNEL_POOLS);
    const game = (await stage.gameServer({ id: 1 })).endpoint;
    const arenas = [server('odd'), server('even')] as const;
    const configOf = (
      number: number,
      listen: readonly [string, string] = ['127.0.0.1:0', '127.0.0.1:0'],
    ): object => config({ listen, game, arena: arenas[number % 2]!.local, number });
    const first = await stage.relay(configOf(0));
    const listen = [first.listener('game').toString(), first.listener('arena').toString()] as const;
    const players = await stage.players(4, first.listener('game'));
    const client = stage.peer('127.21.0.1:0');
    const served = async (): Promise<string> =>
      (await client.ask(first.listener('arena'), 'who')).payload.toString();

    for (let number = 1; number <= RELOADS; number++) {
      first.writeConfig(configOf(number));
      expect(await first.reload(), `reload ${number}`).toBe(true);
      expect(await served()).toBe(number % 2 === 0 ? 'odd' : 'even');
    }
    expect(await first.metric('sessions_repinned_total')).toBe(0);
    first.process.signal('SIGKILL');
    await first.process.ended(20_000);
    await answers(players);

    const second = await stage.relay(configOf(RELOADS + 1, listen));
    expect(second.process.stderr).toMatch(/adopted \d+ sessions/);
    expect(await served()).toBe('even');
    expect(await second.metric('sessions_opened_total', { listener: 'game' })).toBe(players.length);
    await answers(players);
    await settle(players);
    expect(disturbed(players)).toEqual([]);
  });

  /** A listener and a pool for each of these names. */
  const listenersFor = (engine: string, names: readonly string[]): object => ({
    name: 'tickrelay',
    engine,
    kernel: { bpffs: stage.bpffs.path, sourceAddress: 'client' },
    admin: { listen: '127.0.0.1:0' },
    listeners: names.map((name) => ({ name, protocol: 'udp', listen: '127.0.0.1:0', pool: name })),
    pools: Object.fromEntries(
      names.map((name) => [name, { healthCheck: { type: 'none' }, backends: [own] }]),
    ),
  });
  let own: string;
  const NAMES = Array.from({ length: MAX_KERNEL_POOLS }, (_, i) => `pool-${i}`);

  test('a pool too many is refused by a reload of a relay that auto put in the kernel, and one may take another’s place', async () => {
    own = server('served').local.toString();
    const relay = await stage.relay(listenersFor('auto', NAMES));
    expect(await relay.metric('engine_info', { engine: 'kernel' })).toBe(1);
    const served = async (listener: Endpoint): Promise<string> =>
      (await stage.peer('127.0.0.1:0').ask(listener, 'who')).payload.toString();

    relay.writeConfig(listenersFor('auto', [...NAMES, 'one-more']));
    expect(await relay.reload()).toBe(false);
    expect(relay.process.stderr).toMatch(
      /listeners\[64\]\.pool: \\"one-more\\" is one of 65 pools .* has room for 64; let listeners share pools/,
    );
    expect(await served(relay.listener('pool-63'))).toBe('served');

    relay.writeConfig(listenersFor('auto', [...NAMES.slice(1), 'one-more']));
    expect(await relay.reload()).toBe(true);
    expect(await served(relay.listener('pool-63'))).toBe('served');
    expect(await relay.metric('sessions_opened_total', { listener: 'one-more' })).toBe(0);
  });

  test('with a pool too many the kernel engine does not start, and auto takes another one', async () => {
    own = server('served').local.toString();
    const names = [...NAMES, 'one-more'];
    const path = stage.writeFile('named.yaml', listenersFor('auto', names));
    const named = stage.start(tickrelay('relay', ['relay', '--config', path, '--engine', 'kernel']));
    expect(await named.ended(20_000)).toMatchObject({ code: 2 });
    expect(named.stderr).toMatch(
      /TICKRELAY_ERR_CONFIG: listeners\[64\]\.pool: "one-more" is one of 65 pools/,
    );
    const relay = await stage.relay(listenersFor('auto', names));
    expect(await relay.metric('engine_info', { engine: 'mmsg' })).toBe(1);
    expect(relay.process.stderr).toContain('kernel is not taken: it has room for 64 pools');
  });

  const answers = (players: readonly SteadyPlayer[]): Promise<unknown> =>
    Promise.all(players.map((player) => player.answers(20)));
}
