/**
 * Relays in network namespaces of their own that have one BPF file system, as containers may: what is pinned there has one owner,
 * whichever network it runs in.
 */
import { spawnSync } from 'node:child_process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { inOtherNetwork } from '../support/other-network.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';

const unavailable =
  whyUnavailable() ??
  enterOwnNetwork([]) ??
  (spawnSync('unshare', ['--version']).status === 0 ? undefined : 'there is no program unshare (util-linux)');

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  let config: object;
  let relay: RelayProcess;
  let players: readonly SteadyPlayer[];

  beforeEach(async () => {
    stage = new KernelStage();
    const [server] = await stage.gameServers(1);
    config = gameConfig({
      pool: { backends: [server!.endpoint.toString()] },
      rest: {
        name: 'shared',
        engine: 'kernel',
        kernel: { bpffs: stage.bpffs.path, sourceAddress: 'client' },
        shutdown: { deadline: '100ms' },
      },
    });
    relay = await stage.relay(config);
    players = await stage.players(6, relay.listener());
  });
  afterEach(() => stage.close());

  const relayElsewhere = (): ManagedProcess => {
    const file = stage.writeFile('elsewhere.yaml', config);
    return stage.start(inOtherNetwork(tickrelay('relay elsewhere', ['relay', '--json', '--config', file])));
  };
  const detachElsewhere = async (): Promise<object> => {
    const child = stage.start(
      inOtherNetwork(tickrelay('detach', ['detach', 'shared', '--bpffs', stage.bpffs.path])),
    );
    const { code } = await child.ended(20_000);
    return { code, stdout: child.stdout, stderr: child.stderr };
  };
  const playOn = (): Promise<unknown> => Promise.all(players.map((player) => player.answers(10)));

  test('a relay that runs is neither detached nor taken over from another network', async () => {
    expect(await detachElsewhere()).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('the relay "shared" runs') as string,
    });
    const second = relayElsewhere();
    expect(await second.ended(20_000)).toMatchObject({ code: 1 });
    expect(second.stderr).toMatch(/a relay named "shared" runs on this machine already, .*another network/);
    await playOn();
    expect(await relay.metric('sessions_opened_total')).toBe(6);
    await settle(players);
    expect(disturbed(players)).toEqual([]);
  });

  test('one that is dead is detached from another network', async () => {
    relay.process.signal('SIGKILL');
    await relay.process.ended(20_000);
    await playOn();
    expect(await detachElsewhere()).toMatchObject({
      code: 0,
      stdout: 'shared: detached from lo-egress, lo-ingress\n',
    });
    // Nobody has the address any more.
    const taker = stage.peer(relay.listener().toString());
    await taker.until(() => taker.received.length > 0, 'a datagram of a player');
  });

  test('one that is dead is followed in another network by a relay that attaches to the interfaces there', async () => {
    relay.process.signal('SIGKILL');
    await relay.process.ended(20_000);
    const second = relayElsewhere();
    const { listeners } = await second.event('ready');
    const { game } = listeners as Record<string, string>;
    expect(second.stderr).toContain('adopted 6 sessions');
    // Its programs see what is sent to it there: nothing else counts.
    const ask = `const s = require('node:dgram').createSocket('udp4');
      setInterval(() => s.send('x', ${game!.split(':')[1]}, '127.0.0.1'), 20); setTimeout(() => process.exit(), 500)`;
    const inside = ['--target', String(second.pid), '--net', process.execPath, '-e', ask];
    expect(spawnSync('nsenter', inside).status).toBe(0);
    second.signal('SIGTERM');
    const { udp } = await second.event('summary');
    const { downstream } = (udp as Record<string, { downstream: { received: number } }>)['game']!;
    expect(downstream.received).toBeGreaterThan(0);
  });
}
