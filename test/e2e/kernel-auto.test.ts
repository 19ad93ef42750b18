/** What `engine: auto` makes of the kernel engine: taken where it runs and was asked for, and else why not, with the remedy. */
import { spawnSync } from 'node:child_process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import { Endpoint } from '../../net/address.ts';
import { attach } from '../../relay/engines/kernel/attach.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { MetricsPage } from '../support/metrics-page.ts';
import { enterOwnNetwork } from '../support/own-network.ts';

const unavailable =
  whyUnavailable() ??
  enterOwnNetwork([]) ??
  (spawnSync('setpriv', ['--version']).status === 0 ? undefined : 'there is no program setpriv (util-linux)');

/** That a hook takes (linux/bpf_mprog.h: bpf_mprog_max). */
const MOST_PROGRAMS = 63;

/** r0 = -1 (TCX_NEXT); exit */
const PASS = Uint8Array.from([0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0]);

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  beforeEach(() => {
    stage = new KernelStage();
  });
  afterEach(() => stage.close());

  /** @param prefix a program that starts the relay, with its arguments */
  const relay = async (settings: object, prefix: readonly string[] = []): Promise<ManagedProcess> => {
    const server = stage.peer('127.0.0.1:0', ({ payload }) => payload);
    const config = gameConfig({
      pool: { backends: [server.local.toString()] },
      rest: { engine: 'auto', kernel: { bpffs: stage.bpffs.path, ...settings } },
    });
    const own = tickrelay('relay', ['relay', '--json', '--config', stage.writeFile('auto.yaml', config)]);
    const [program, ...args] = [...prefix, process.execPath];
    const child = stage.start(prefix.length === 0 ? own : { ...own, program, args: [...args, ...own.args] });
    await child.event('ready');
    return child;
  };
  /** The engine that the relay says it has, and why, in its metrics. */
  const engineOf = async (child: ManagedProcess): Promise<{ engine: unknown; reason: string }> => {
    const { engine, admin } = await child.event('ready');
    const page = await (await fetch(`http://${admin as string}/metrics`)).text();
    expect(new MetricsPage(page).value('engine_info', { engine: engine as string })).toBe(1);
    const reason = /^tickrelay_engine_info\{.*reason="((?:[^"\\]|\\.)*)"/m.exec(page)![1]!;
    expect(child.stderr).toContain(JSON.stringify(reason.replaceAll('\\"', '"')).slice(1, -1));
    return { engine, reason };
  };

  test('it takes the kernel engine where that runs and the configuration says whose address backends shall see', async () => {
    const child = await relay({ sourceAddress: 'client' });
    const { engine, reason } = await engineOf(child);
    expect(engine).toBe('kernel');
    expect(reason).toMatch(/^auto: the best that works here; \d+ MiB of kernel memory for \d+ sessions$/);
    const { listeners } = await child.event('ready');
    const { game } = listeners as Record<string, string>;
    const { payload } = await stage.peer('127.0.0.1:0').ask(Endpoint.parse(game!), 'by the kernel');
    expect(payload.toString()).toBe('by the kernel');
  });

  test.each([
    [
      'nobody has said whose address backends shall see',
      {},
      [],
      /kernel is not taken: nobody has said whose address backends shall see; set kernel\.sourceAddress to relay, or to client/,
    ],
    [
      'a capability is missing',
      { sourceAddress: 'client' },
      ['setpriv', '--bounding-set', '-net_admin'],
      /kernel can't run: it needs CAP_NET_ADMIN; run as root, or give the process the capabilities \(setcap, /,
    ],
    [
      'capabilities for bpf(2) are missing',
      { sourceAddress: 'client' },
      ['setpriv', '--bounding-set', '-bpf,-perfmon,-sys_admin'],
      /kernel can't run: it needs CAP_BPF, CAP_PERFMON; run as root, /,
    ],
    [
      'there is no BPF file system',
      { sourceAddress: 'client', bpffs: '/nosuch' },
      [],
      /kernel can't run: no BPF file system at \/nosuch, and there is no such directory; as root: mount -t bpf bpf \/nosuch/,
    ],
  ] as const)('where %s it takes the next best, and says why and what to do', async (...of) => {
    const [, settings, prefix, why] = of;
    const { engine, reason } = await engineOf(await relay(settings, prefix));
    expect(engine).toBe('mmsg');
    expect(reason).toMatch(why);
    expect(reason).not.toContain('\n');
  });

  test('where programs can’t be attached it takes the next best, and leaves nothing', async () => {
    const { bpf } = stage;
    // As many as a hook takes; one program goes there but once.
    const fds = Array.from({ length: MOST_PROGRAMS }, (_, i) => {
      const program = bpf.loadProgram({ name: `pass_${i}`, instructions: PASS });
      return [attach(bpf, program, { interface: 'lo', hook: 'egress' }), program];
    });
    try {
      const { engine, reason } = await engineOf(await relay({ sourceAddress: 'client' }));
      expect(engine).toBe('mmsg');
      expect(reason).toMatch(/kernel can't run: can't attach to egress of lo: ERANGE/);
      const detach = stage.start(tickrelay('detach', ['detach', '--all', '--bpffs', stage.bpffs.path]));
      await detach.ended(20_000);
      expect(detach.stdout).toBe(`nothing is left in ${stage.bpffs.path}\n`);
    } finally {
      for (const fd of fds.flat()) bpf.closeFd(fd);
    }
  });
}
