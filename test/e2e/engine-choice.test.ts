/** Which engine a relay takes, and what it does where the machine gives it little. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadLibc } from '../../net/linux/libc.ts';
import { Stage } from '../support/stage.ts';
import { until } from '../support/until.ts';

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

const FLAGS = ['--udp', '127.0.0.1:0', '--admin', '127.0.0.1:0'];
const loaded = loadLibc();

if ('unavailable' in loaded) {
  test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
} else {
  test('auto takes the batched engine where the machine has it', async () => {
    const relay = await stage.relayFromFlags(FLAGS, { engine: 'auto' });
    expect(await relay.metric('engine_info', { engine: 'mmsg' })).toBe(1);
  });

  test('without koffi auto takes the portable engine, and says why in the log and the metrics', async () => {
    const hide = stage.writeFile(
      'hide-koffi.cjs',
      `const Module = require('node:module');
       const resolve = Module._resolveFilename;
       Module._resolveFilename = function (name, ...rest) {
         if (name === 'koffi') throw new Error("Cannot find module 'koffi'");
         return resolve.call(this, name, ...rest);
       };`,
    );
    const env = { NODE_OPTIONS: `--require ${hide}` };
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    const relay = await stage.relayFromFlags([...FLAGS, '--backend', server.local.toString()], {
      engine: 'auto',
      env,
    });
    expect(await relay.metric('engine_info', { engine: 'dgram' })).toBe(1);
    expect(relay.process.stderr).toContain("mmsg can't run: koffi does not load: Cannot find module 'koffi'");
    const { payload } = await stage.peer('127.0.0.1:0').ask(relay.listener(), 'served all the same');
    expect(payload.toString()).toBe('served all the same');
  });

  test('where io_uring is forbidden, as in many containers, mmsg does without it, and says so', async () => {
    // A packet filter's language, over the system call's number: EPERM for io_uring_setup (425 on x86-64 and arm64), all else goes on.
    const forbid = stage.writeFile(
      'forbid-io-uring.cjs',
      `// Threads have the filter of the one that started them.
       if (!require('node:worker_threads').isMainThread) return;
       const koffi = require('node:module').createRequire(process.argv[1])('koffi');
       const prctl = koffi.load(null).func('int prctl(int, uint64_t, uint64_t, uint64_t, uint64_t)');
       const steps = [[0x20, 0, 0, 0], [0x15, 0, 1, 425], [0x06, 0, 0, 0x00050001], [0x06, 0, 0, 0x7fff0000]];
       const filter = Buffer.alloc(8 * steps.length);
       steps.forEach(([code, yes, no, k], i) => {
         filter.writeUInt16LE(code, 8 * i);
         filter.writeUInt8(yes, 8 * i + 2);
         filter.writeUInt8(no, 8 * i + 3);
         filter.writeUInt32LE(k, 8 * i + 4);
       });
       const program = Buffer.alloc(16);
       program.writeUInt16LE(steps.length, 0);
       program.writeBigUInt64LE(koffi.address(filter), 8);
       const PR_SET_NO_NEW_PRIVS = 38, PR_SET_SECCOMP = 22, SECCOMP_MODE_FILTER = 2;
       if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) throw new Error('no_new_privs');
       if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, koffi.address(program), 0, 0) !== 0) throw new Error('seccomp');`,
    );
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    const relay = await stage.relayFromFlags([...FLAGS, '--backend', server.local.toString()], {
      engine: 'mmsg',
      env: { NODE_OPTIONS: `--require ${forbid}` },
    });
    expect(relay.process.stderr).toContain(
      'a system call for each socket, without io_uring: io_uring_setup: EPERM',
    );
    const { payload } = await stage.peer('127.0.0.1:0').ask(relay.listener(), 'served all the same');
    expect(payload.toString()).toBe('served all the same');
  });
}

test.each(['dgram', ...('libc' in loaded ? ['mmsg'] : [])])(
  'with no descriptor left, %s refuses new players and keeps those who play',
  async (engine) => {
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    const flags = [
      ...FLAGS,
      '--backend',
      server.local.toString(),
      ...(engine === 'mmsg' ? ['--workers', '1'] : []),
    ];
    const relay = await stage.relayFromFlags(flags, { engine, descriptorLimit: 250 });
    const players = Array.from({ length: 400 }, (_, i) => stage.peer(`127.9.${i >> 7}.${(i & 127) + 1}:0`));
    // Twice at once: whoever is past half-open gives way to nobody.
    for (const player of players) {
      player.send(relay.listener(), 'hello');
      player.send(relay.listener(), 'hello');
    }
    const counted = { listener: 'game', direction: 'downstream' };
    await relay.untilMetric('datagrams_received_total', counted, 800);
    await until(
      'all to be accounted for',
      async () => (await relay.metrics()).unaccounted('game', 'downstream') === 0,
    );
    const forwarded = (await relay.metric('datagrams_forwarded_total', counted))!;
    const refused = await relay.metric('datagrams_dropped_total', {
      ...counted,
      reason: 'no-upstream-socket',
    });
    expect(forwarded).toBeGreaterThan(2 * 20);
    expect(forwarded).toBeLessThan(2 * 250);
    expect(refused).toBe(800 - forwarded);

    const served = (): typeof players => players.filter(({ received }) => received.length >= 2);
    await until('those who have a session to be answered', () => served().length === forwarded / 2);
    for (const player of served()) {
      const before = player.received.length;
      player.send(relay.listener(), 'still here');
      await player.until(() => player.received.length > before, 'an answer');
    }
    expect((await relay.request('/livez')).status).toBe(200);
  },
);
