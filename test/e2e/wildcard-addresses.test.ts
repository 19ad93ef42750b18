/** Relay and game server on wildcard addresses: each answers from the address that was contacted. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const UPDATE = Buffer.from('002a3f8000004000000040400000', 'hex');
const loaded = loadLibc();

if ('unavailable' in loaded) {
  test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
} else {
  test.each(['immediate', 'tick'])('a game server that answers %s, behind a relay', async (reply) => {
    const server = await stage.gameServer({
      id: 1,
      listen: '0.0.0.0:0',
      flags: ['--socket', 'mmsg', '--reply', reply],
    });
    const config = gameConfig({
      listener: { listen: '0.0.0.0:0' },
      pool: { backends: [`127.0.0.2:${server.endpoint.port}`] },
    });
    const relay = await stage.relay({ ...config, engine: 'mmsg' });
    const player = stage.peer('127.9.0.1:0');
    const contacted = Endpoint.parse(`127.0.0.3:${relay.listener().port}`);
    expect((await player.ask(contacted, UPDATE)).from.toString()).toBe(contacted.toString());
    const labels = { listener: 'game', direction: 'upstream', reason: 'unknown-upstream' };
    expect(await relay.metric('datagrams_dropped_total', labels)).toBe(0);
  });

  test('what is sent to a closed port is counted', async () => {
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    const config = gameConfig({ pool: { backends: [server.local.toString()] } });
    const relay = await stage.relay({ ...config, engine: 'mmsg' });
    const player = stage.peer('127.9.0.1:0');
    await player.ask(relay.listener(), 'x');
    expect(await relay.metric('upstream_unreachable_total', { listener: 'game' })).toBe(0);
    await server.close();
    player.send(relay.listener(), 'to nobody');
    await expect.poll(() => relay.metric('upstream_unreachable_total', { listener: 'game' })).toBe(1);
    expect(await relay.metric('sessions', { listener: 'game' })).toBe(1);
  });
}
