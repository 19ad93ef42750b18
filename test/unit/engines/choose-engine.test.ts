import { expect, test } from 'vitest';
import { chooseEngine } from '../../../relay/engines/choose-engine.ts';

const SETTINGS = {
  maxSessions: 10,
  maxUpstreamSockets: 10,
  hashSeed: 0,
  tableSeed: 0,
  workers: 1,
  now: () => performance.now(),
  kernel: {
    name: `test-${process.pid}`,
    interfaces: [],
    sourceAddress: undefined,
    relayPorts: { first: 61_000, last: 65_535 },
    bpffs: '/nosuch',
    keepAttached: false,
    pools: 1,
  },
};

test('auto takes an engine that runs here, and says that it was auto', async () => {
  const { engine, reason } = chooseEngine('auto', SETTINGS);
  expect(['dgram', 'mmsg', 'kernel']).toContain(engine.name);
  expect(reason).toMatch(/^auto: ./);
  await engine.close();
});

test('auto passes the kernel engine over where it has no room for the pools, and says so', async () => {
  const kernel = { ...SETTINGS.kernel, sourceAddress: 'client', pools: 65 } as const;
  const { engine, reason } = chooseEngine('auto', { ...SETTINGS, kernel });
  expect(engine.name).not.toBe('kernel');
  expect(reason).toContain(
    'kernel is not taken: it has room for 64 pools, and listeners need 65; let listeners share pools',
  );
  await engine.close();
});

test('a named engine is taken, and the reason is that it was named', async () => {
  const { engine, reason } = chooseEngine('dgram', SETTINGS);
  expect(engine.name).toBe('dgram');
  expect(reason).toBe('chosen by the configuration');
  await engine.close();
});

test('an engine that can’t run here is an error that says why and what would', () => {
  let error: unknown;
  try {
    chooseEngine('kernel', SETTINGS);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toMatchObject({
    code: 'TICKRELAY_ERR_ENGINE',
    message: expect.stringMatching(/^engine kernel can't run here: .+; choose auto or .*dgram/) as string,
  });
});
