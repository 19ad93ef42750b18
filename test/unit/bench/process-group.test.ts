import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ProcessGroup, type ProcessSpec } from '../../../bench/process-group.ts';

const script = (name: string, source: string): ProcessSpec => ({ name, args: ['-e', source] });

const READY_AND_WAITING = `
  process.on('SIGTERM', () => { console.log(JSON.stringify({ event: 'summary', received: 3 })); process.exit(0); });
  setInterval(() => {}, 1000);
  console.log('a line that is no JSON');
  console.log(JSON.stringify({ event: 'ready', udp: '127.0.0.1:4567' }));`;

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe('a process group', () => {
  let group: ProcessGroup;
  beforeEach(() => {
    group = new ProcessGroup();
  });
  afterEach(async () => group.close());

  it('waits for the ready line and collects the summary of a child that ends by SIGTERM', async () => {
    const child = group.start(script('server', READY_AND_WAITING));
    expect(await child.event('ready')).toEqual({ udp: '127.0.0.1:4567' });
    expect(await child.stop()).toEqual({ code: 0, signal: null });
    expect(await child.event('summary')).toEqual({ received: 3 });
  });

  it('remembers an event that was printed before anyone asked for it', async () => {
    const child = group.start(
      script('server', `console.log('{"event":"ready","n":1}\\n{"event":"summary","n":2}')`),
    );
    await child.ended(15_000);
    expect(await child.event('ready')).toEqual({ n: 1 });
    expect(await child.event('summary')).toEqual({ n: 2 });
  });

  it('reports a child that ends too early with its exit code and its standard error', async () => {
    const child = group.start(script('relay', `console.error('address is taken'); process.exit(7)`));
    await expect(child.event('ready')).rejects.toMatchObject({
      code: 'TICKRELAY_ERR_LOAD',
      message: expect.stringMatching(
        /relay process ended.*"ready".*exit code 7.*address is taken/s,
      ) as string,
    });
  });

  it('gives up on a child that says nothing before the deadline', async () => {
    const child = group.start(script('mute', 'setInterval(() => {}, 1000)'));
    await expect(child.event('ready', 50)).rejects.toThrow(
      /mute process did not print its "ready" line within 50 ms/,
    );
  });

  it('reports a program that does not exist', async () => {
    const child = group.start({ name: 'nginx', program: '/nonexistent/nginx', args: [] });
    await expect(child.event('ready')).rejects.toThrow(/ENOENT/);
  });

  it('kills a child that ignores SIGTERM', async () => {
    const child = group.start(
      script(
        'stubborn',
        `process.on('SIGTERM', () => {}); setInterval(() => {}, 1000); console.log('{"event":"ready"}')`,
      ),
    );
    await child.event('ready');
    expect(await child.stop(50)).toEqual({ code: null, signal: 'SIGKILL' });
  });

  it('leaves no process behind when it is closed, twice, and then takes no more', async () => {
    const children = [1, 2, 3].map((n) => group.start(script(`server ${n}`, READY_AND_WAITING)));
    await Promise.all(children.map((child) => child.event('ready')));
    const pids = [...group.pids];
    expect(pids).toHaveLength(3);
    await group.close();
    await group.close();
    expect(pids.filter(isRunning)).toEqual([]);
    expect(group.pids).toEqual([]);
    expect(() => group.start(script('late', ''))).toThrow(/the run is over/);
  });

  it('ends the youngest child first', async () => {
    const first = group.start(script('first', READY_AND_WAITING));
    const second = group.start(script('second', READY_AND_WAITING));
    await Promise.all([first.event('ready'), second.event('ready')]);
    const order: string[] = [];
    const endings = [first, second].map(async (child) => {
      await child.ended(15_000);
      order.push(child.name);
    });
    await group.close();
    await Promise.all(endings);
    expect(order).toEqual(['second', 'first']);
  });

  it('takes its children with it when the parent exits without closing', async () => {
    const parent = group.start({
      name: 'parent',
      args: [
        '--input-type=module',
        '-e',
        `import { ProcessGroup } from '${new URL('../../../dist/bench/process-group.js', import.meta.url).href}';
         const group = new ProcessGroup();
         const child = group.start({ name: 'child', args: ['-e', 'console.log(JSON.stringify({event:"ready"})); setInterval(() => {}, 1000)'] });
         await child.event('ready');
         console.log(JSON.stringify({ event: 'ready', pid: child.pid }));
         process.exit(3);`,
      ],
    });
    const { pid } = await parent.event('ready');
    await parent.ended(15_000);
    await expect.poll(() => isRunning(pid as number), { timeout: 15_000 }).toBe(false);
  });
});
