/** After the load a relay has the descriptors that it had before, its reserve of upstream sockets among them. */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UPSTREAM_RESERVE } from '../../relay/core/limits.ts';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { limited, type RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

/** An upstream socket rests for 30 seconds before it is closed. */
const REST_MS = 30_000;

const DEADLINE_MS = 15_000;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

/** Each worker has a reserve on each listener, and fills it in its first step. */
const RESERVE = UPSTREAM_RESERVE.least;
const ONE_WORKER = { workers: 1 };

async function settledDescriptors(relay: RelayProcess, listeners = 1): Promise<number> {
  await relay.untilMetric('upstream_sockets', {}, listeners * RESERVE);
  return relay.descriptors;
}

test(
  'sessions, upstream sockets and descriptors return to where they were',
  async () => {
    const server = await stage.gameServer({ id: 1 });
    const backends = [server.endpoint.toString()];
    const relay = await stage.relay(
      gameConfig({
        listener: { idleTimeout: '500ms', pinTimeout: '500ms' },
        pool: { backends },
        rest: ONE_WORKER,
      }),
    );
    const before = await settledDescriptors(relay);
    const kindsBefore = relay.descriptorKinds;
    const players = await stage.players(60, relay.listener());
    await until('the reserve beside 60 sockets', () => relay.descriptors >= before + 60);
    expect(await relay.metric('upstream_sockets')).toBeGreaterThanOrEqual(60 + RESERVE);

    await Promise.all(players.map((player) => player.close()));
    await relay.untilMetric('sessions', {}, 0);
    await until('the pins to end', async () => (await relay.metric('pins')) === 0);
    const more = (): unknown[] =>
      [...relay.descriptorKinds].filter(([kind, count]) => count > (kindsBefore.get(kind) ?? 0));
    await expect.poll(more, { timeout: 2 * REST_MS }).toEqual([]);
    await relay.untilMetric('upstream_sockets', {}, RESERVE);
  },
  4 * REST_MS,
);

const CAP_SYS_RESOURCE = 1n << 24n;

/** Whether the limit of a child can't hold it back. */
function mayExceedLimits(): boolean {
  const effective = /^CapEff:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return (BigInt(`0x${effective ?? '0'}`) & CAP_SYS_RESOURCE) !== 0n;
}

test('a number of upstream sockets that was asked for and can’t be had ends the start, with what would do', async (context) => {
  if (mayExceedLimits()) context.skip('this process may raise every limit (CAP_SYS_RESOURCE)');
  const start = (maxUpstreamSockets: number | 'auto'): ManagedProcess => {
    const path = stage.writeFile('relay.json', gameConfig({ rest: { limits: { maxUpstreamSockets } } }));
    return stage.start(limited(tickrelay('relay', ['relay', '--json', '--config', path]), 400));
  };
  const refused = start(5_000);
  expect(await refused.ended(DEADLINE_MS)).toMatchObject({ code: 2 });
  expect(refused.stderr).toMatch(
    /TICKRELAY_ERR_CONFIG: limits\.maxUpstreamSockets: 5000 can't be had: the process may open 400 descriptors.+at most 200/,
  );
  await start(200).event('ready');
  const lowered = start('auto');
  await lowered.event('ready');
  expect(lowered.stderr).toContain('it takes 200 upstream sockets instead of 16384');
});

test('a listener that a reload removes gives its descriptors back at once', async () => {
  const server = await stage.gameServer({ id: 1 });
  const backends = [server.endpoint.toString()];
  const game = { name: 'game', protocol: 'udp', listen: '127.0.0.1:0', pool: 'game-servers' };
  const arena = { ...game, name: 'arena' };
  const config = (...listeners: object[]): object =>
    gameConfig({ pool: { backends }, rest: { listeners, ...ONE_WORKER } });
  const relay = await stage.relay(config(game, arena));
  const before = await settledDescriptors(relay, 2);
  const players = await stage.players(20, relay.listener('arena'));
  await until('the reserve beside 20 sockets', () => relay.descriptors >= before + 20);
  await Promise.all(players.map((player) => player.close()));
  relay.writeConfig(config(game));
  expect(await relay.reload()).toBe(true);
  await until('the descriptors to be closed', () => relay.descriptors < before);
});
