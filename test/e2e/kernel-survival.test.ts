/**
 * What the kernel engine leaves behind: traffic goes on while the relay is dead, a restarted one takes over where it was, and
 * nothing stays that nobody wants.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { tickrelay } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { gameConfig, HEARTBEAT, LOOPBACK } from '../support/game-fleet.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';

// In a network of this file's own: a dead relay keeps its listener's address, which elsewhere another test may have been given.
const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const fleet = new Stage();
  let backends: readonly string[];
  let stage: KernelStage;

  beforeAll(async () => {
    backends = (await fleet.gameServers(3)).map(({ endpoint }) => endpoint.toString());
  });
  afterAll(() => fleet.close());

  beforeEach(() => {
    stage = new KernelStage();
  });
  afterEach(() => stage.close());

  const kernel = (settings: object = {}): object => ({
    name: 'tickrelay',
    engine: 'kernel',
    kernel: { bpffs: stage.bpffs.path, sourceAddress: 'client', ...settings },
  });

  /** The same relay once more: on the same addresses. */
  const again = (before: RelayProcess, pool: object, rest: object = kernel()): Promise<RelayProcess> =>
    stage.relay(
      gameConfig({
        listener: { listen: before.listener().toString() },
        pool,
        rest: { ...rest, admin: { listen: before.admin.replace('http://', '') } },
      }),
    );

  /** Of so many of the servers that all cases here share. */
  const staticPool = (count: number): object => ({ backends: backends.slice(0, count) });

  const playOn = (players: readonly SteadyPlayer[], answers = 20): Promise<unknown> =>
    Promise.all(players.map((player) => player.answers(answers)));

  const report = (what: string, players: readonly SteadyPlayer[]): void => {
    const answered = players.reduce((sum, player) => sum + player.answered, 0);
    const lost = players.reduce((sum, player) => sum + player.unanswered, 0);
    process.stdout.write(
      `${what}: ${lost} of ${answered + lost} datagrams lost by ${players.length} players\n`,
    );
  };

  const detach = async (
    ...flags: string[]
  ): Promise<{ code: number | null; stdout: string; stderr: string }> => {
    const child = stage.start(tickrelay('detach', ['detach', ...flags, '--bpffs', stage.bpffs.path]));
    const { code } = await child.ended(20_000);
    return { code, stdout: child.stdout, stderr: child.stderr };
  };

  describe('kill -9', () => {
    test('costs no player a datagram, and the next relay goes on with their sessions and counters', async () => {
      const pool = staticPool(3);
      const first = await stage.relay(gameConfig({ pool, rest: kernel() }));
      const players = await stage.players(24, first.listener());
      await playOn(players);
      const before = await first.serversByClient();
      expect(before.size).toBe(24);
      const counted = (await first.metric('datagrams_forwarded_total', { direction: 'downstream' }))!;
      first.process.signal('SIGKILL');
      await first.process.ended(20_000);
      await playOn(players);

      const second = await again(first, pool);
      expect(second.process.stderr).toContain('adopted 24 sessions');
      await playOn(players);
      expect(await second.serversByClient()).toEqual(before);
      expect(await second.metric('sessions_repinned_total')).toBe(0);
      expect(await second.metric('sessions_opened_total')).toBe(24);
      const now = (await second.metric('datagrams_forwarded_total', { direction: 'downstream' }))!;
      // Those of the time without a relay are among them.
      expect(now).toBeGreaterThan(counted + 24 * 20);
      await settle(players);
      report('kill -9 and restart', players);
      expect(disturbed(players)).toEqual([]);
      // Every datagram went to some backend or came from one, before and after.
      const page = await second.metrics();
      for (const direction of ['downstream', 'upstream']) {
        const forwarded = page.value('datagrams_forwarded_total', { direction })!;
        expect(page.value('backend_datagrams_total', { direction })).toBe(forwarded);
      }
      expect(page.value('backend_client_interval_seconds_count')).toBeGreaterThan(24 * 20);
    });

    test.each(['client', 'relay'])(
      'moves nobody whose servers register themselves, although the next relay has yet to hear of them; with the address of the %s',
      async (sourceAddress) => {
        const rest = kernel({ sourceAddress });
        const pool = { healthCheck: HEARTBEAT, registration: { ...LOOPBACK, settle: '2s' } };
        const first = await stage.relay(gameConfig({ pool, rest }));
        await stage.gameServers(3, { register: first });
        await first.untilStates({ 'server-1': 'ready', 'server-2': 'ready', 'server-3': 'ready' });
        const players = await stage.players(12, first.listener());
        first.process.signal('SIGKILL');
        await first.process.ended(20_000);
        const second = await again(first, pool, rest);
        expect((await second.request('/readyz')).status).toBe(503);
        // One who comes meanwhile plays as well.
        const newcomer = stage.player('127.21.0.1:0', second.listener());
        await newcomer.start();
        await playOn([...players, newcomer]);
        await second.untilStates({ 'server-1': 'ready', 'server-2': 'ready', 'server-3': 'ready' });
        await playOn([...players, newcomer]);
        expect(await second.metric('sessions_repinned_total')).toBe(0);
        await settle([...players, newcomer]);
        report(`kill -9 with servers that register, backends see the ${sourceAddress}`, players);
        expect(disturbed([...players, newcomer])).toEqual([]);
      },
    );

    test('leaves what `tickrelay detach` removes', async () => {
      const relay = await stage.relay(gameConfig({ pool: staticPool(1), rest: kernel() }));
      const [player] = (await stage.players(1, relay.listener())) as [SteadyPlayer];
      const refused = await detach();
      expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('runs') as string });
      relay.process.signal('SIGKILL');
      await relay.process.ended(20_000);
      await player.answers(5);
      // The dead relay's address is still its players', and no other one is.
      const [taker, neighbour] = [stage.peer(relay.listener().toString()), stage.peer('127.0.0.1:0')];
      for (const { local } of [taker, neighbour]) neighbour.send(local, 'x');
      await neighbour.next();
      expect(taker.received).toEqual([]);
      expect(await detach()).toMatchObject({
        code: 0,
        stdout: 'tickrelay: detached from lo-egress, lo-ingress\n',
      });
      const { answered } = player;
      const unanswered = player.unanswered;
      await expect.poll(() => player.unanswered).toBeGreaterThan(unanswered + 1);
      expect(player.answered).toBeLessThanOrEqual(answered + 1);
      expect(await detach()).toMatchObject({ code: 0, stdout: 'tickrelay: nothing was left\n' });
      expect(await detach('eu-1')).toMatchObject({ code: 0, stdout: 'eu-1: nothing was left\n' });
    });
  });

  describe('SIGTERM', () => {
    test('with keepAttached ends the relay at once and leaves its players playing', async () => {
      const pool = staticPool(2);
      const rest = kernel({ keepAttached: true });
      const first = await stage.relay(gameConfig({ pool, rest }));
      const players = await stage.players(12, first.listener());
      first.process.signal('SIGTERM');
      // Not the 30 s of a drain with players in it.
      expect(await first.process.ended(10_000)).toMatchObject({ code: 0 });
      await playOn(players);
      const second = await again(first, pool, rest);
      await playOn(players);
      expect(await second.metric('sessions_opened_total')).toBe(12);
      await settle(players);
      report('replaced without a gap', players);
      expect(disturbed(players)).toEqual([]);
    });

    test('otherwise drains, and leaves nothing', async () => {
      const rest = { ...kernel(), shutdown: { deadline: '500ms' } };
      const relay = await stage.relay(gameConfig({ pool: staticPool(1), rest }));
      const players = await stage.players(3, relay.listener());
      relay.process.signal('SIGTERM');
      expect(await relay.process.ended(20_000)).toMatchObject({ code: 0 });
      expect(await detach('--all')).toMatchObject({
        code: 0,
        stdout: `nothing is left in ${stage.bpffs.path}\n`,
      });
      await settle(players);
    });
  });

  describe('two relays on one machine', () => {
    test('do not disturb each other, whichever ends', async () => {
      const pool = staticPool(2);
      const named = (name: string): Promise<RelayProcess> =>
        stage.relay(
          gameConfig({ pool, rest: { ...kernel(), name, shutdown: { deadline: '100ms' } } }),
          [],
          `${name}.yaml`,
        );
      const one = await named('one');
      const two = await named('two');
      const playersOfOne = await stage.players(6, one.listener(), '127.20.1');
      const playersOfTwo = await stage.players(6, two.listener(), '127.20.2');
      await playOn([...playersOfOne, ...playersOfTwo]);
      await settle(playersOfOne);
      one.process.signal('SIGTERM');
      await one.process.ended(40_000);
      await playOn(playersOfTwo);
      await settle(playersOfTwo);
      expect(disturbed([...playersOfOne, ...playersOfTwo])).toEqual([]);
    });

    test('can’t have one name, and the second is told to take another', async () => {
      const pool = staticPool(1);
      await stage.relay(gameConfig({ pool, rest: kernel() }));
      const file = stage.writeFile('second.yaml', gameConfig({ pool, rest: kernel() }));
      const second = stage.start(tickrelay('second relay', ['relay', '--config', file]));
      expect(await second.ended(20_000)).toMatchObject({ code: 1 });
      expect(second.stderr).toMatch(/a relay named "tickrelay" runs on this machine already, .*another name/);
    });
  });
}
