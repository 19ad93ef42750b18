/** What the kernel granted of a listener's receive buffer is told, and can be changed while the relay runs. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { gameConfig } from '../support/game-fleet.ts';
import { Stage } from '../support/stage.ts';

const MORE_THAN_GRANTED = 1_073_741_823;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const config = (receiveBufferBytes: number, engine: string): object =>
  gameConfig({ listener: { receiveBufferBytes }, rest: { engine, workers: 2 } });

test.each(['dgram', 'mmsg'])(
  'engine %s: the size granted is a metric, and a reload changes it',
  async (engine) => {
    const relay = await stage.relay(config(65_536, engine));
    expect(await relay.metric('listener_receive_buffer_bytes', { listener: 'game' })).toBe(65_536);
    expect(relay.process.stderr).not.toContain('receive buffer');
    const before = relay.listener();
    relay.writeConfig(config(131_072, engine));
    expect(await relay.reload()).toBe(true);
    expect(await relay.metric('listener_receive_buffer_bytes')).toBe(131_072);
    expect(relay.listener()).toEqual(before);
  },
);

test('less than asked is a warning that says how to get it', async () => {
  // This engine never goes beyond the limit of the system, whatever privileges it has.
  const relay = await stage.relay(config(MORE_THAN_GRANTED, 'dgram'));
  expect(await relay.metric('listener_receive_buffer_bytes')).toBeLessThan(MORE_THAN_GRANTED);
  expect(relay.process.stderr).toMatch(
    /listener game has a receive buffer of \d+ bytes instead of 1073741823.+sysctl -w net\.core\.rmem_max=1073741823/,
  );
});
