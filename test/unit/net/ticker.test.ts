import { execFile } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { ModuleKind, transpileModule } from 'typescript';
import { describe, expect, test, vi } from 'vitest';
import { startTicker, timerMetronome, workerMetronome, type Metronome } from '../../../net/ticker.ts';

const run = promisify(execFile);

/** A clock and a metronome that move only when told to. */
function manualTime() {
  let nowMs = 0;
  let wake: (startMs: number) => void = () => undefined;
  const ends: string[] = [];
  const metronome: Metronome = (_periodMs, _now, wakeTicker) => {
    wake = wakeTicker;
    return () => ends.push('ended');
  };
  const wakeAt = (ms: number): void => {
    nowMs = ms;
    wake(1000);
  };
  return { now: () => nowMs, metronome, wakeAt, ends };
}

describe('the schedule', () => {
  test('tick k is intended at start + k x period, whatever the wakes were', () => {
    const time = manualTime();
    const calls: [number, number][] = [];
    startTicker({
      ...time,
      periodMs: 7.8125,
      catchUpTicks: 1000,
      onTick: (tick, intendedMs) => calls.push([tick, intendedMs]),
    });
    for (const ms of [1000.02, 1007.9, 1007.95, 1031.3, 1031.4, 1039.1]) time.wakeAt(ms);
    expect(calls).toEqual([
      [0, 1000],
      [1, 1007.8125],
      [2, 1015.625],
      [3, 1023.4375],
      [4, 1031.25],
      [5, 1039.0625],
    ]);
  });

  test('a wake before the first tick or between ticks calls nothing', () => {
    const time = manualTime();
    let calls = 0;
    startTicker({ ...time, periodMs: 10, onTick: () => calls++ });
    time.wakeAt(999.9);
    expect(calls).toBe(0);
    time.wakeAt(1000);
    time.wakeAt(1009.9);
    expect(calls).toBe(1);
  });

  test('without catch-up, a late wake calls the due tick only and reports the others as skipped', () => {
    const time = manualTime();
    const ticks: number[] = [];
    const skips: [number, number][] = [];
    const ticker = startTicker({
      ...time,
      periodMs: 10,
      onTick: (tick) => ticks.push(tick),
      onSkipped: (tick, count) => skips.push([tick, count]),
    });
    time.wakeAt(1000);
    time.wakeAt(1045);
    time.wakeAt(1050);
    expect(ticks).toEqual([0, 4, 5]);
    expect(skips).toEqual([[1, 3]]);
    expect(ticker.overruns).toBe(3);
    expect(ticker.skipped).toBe(3);
  });

  test('with catch-up, missed ticks are called late, and only those beyond the limit are skipped', () => {
    const time = manualTime();
    const ticks: number[] = [];
    const skips: [number, number][] = [];
    const ticker = startTicker({
      ...time,
      periodMs: 10,
      catchUpTicks: 2,
      onTick: (tick) => ticks.push(tick),
      onSkipped: (tick, count) => skips.push([tick, count]),
    });
    time.wakeAt(1005);
    time.wakeAt(1055);
    expect(ticks).toEqual([0, 3, 4, 5]);
    expect(skips).toEqual([[1, 2]]);
    expect(ticker.overruns).toBe(4);
    expect(ticker.latenessUs.count).toBe(4);
  });

  test('a tick that takes longer than its period does not keep the loop: the next ones wait for the next wake', () => {
    const time = manualTime();
    let nowMs = 0;
    const ticks: number[] = [];
    startTicker({
      ...time,
      now: () => (nowMs += 10),
      periodMs: 10,
      catchUpTicks: 100,
      onTick: (tick) => ticks.push(tick),
    });
    nowMs = 990;
    time.wakeAt(0);
    expect(ticks).toEqual([0]);
  });

  test('each tick is called or skipped, once and in order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 50, noNaN: true }), { maxLength: 60 }),
        fc.nat({ max: 4 }),
        (gaps, catchUpTicks) => {
          const time = manualTime();
          const seen: number[] = [];
          const ticker = startTicker({
            ...time,
            periodMs: 7.8125,
            catchUpTicks,
            onTick: (tick) => seen.push(tick),
            onSkipped: (tick, count) => seen.push(...Array.from({ length: count }, (_, i) => tick + i)),
          });
          let ms = 1000;
          for (const gap of gaps) time.wakeAt((ms += gap));
          const due = gaps.length === 0 ? 0 : Math.floor((ms - 1000) / 7.8125) + 1;
          expect(seen).toEqual(Array.from({ length: due }, (_, i) => i));
          expect(ticker.latenessUs.count + ticker.skipped).toBe(due);
        },
      ),
    );
  });

  test('nothing is called after stop, and stop may be repeated', () => {
    const time = manualTime();
    const ticks: number[] = [];
    const ticker = startTicker({
      ...time,
      periodMs: 10,
      catchUpTicks: 5,
      onTick: (tick) => {
        ticks.push(tick);
        if (tick === 1) ticker.stop();
      },
    });
    time.wakeAt(1000);
    time.wakeAt(1035);
    time.wakeAt(1090);
    ticker.stop();
    expect(ticks).toEqual([0, 1]);
    expect(time.ends).toEqual(['ended']);
  });
});

describe.each([
  ['workerMetronome', workerMetronome],
  ['timerMetronome', timerMetronome],
])('%s', (_name, metronome) => {
  test('wakes for every tick, never before its intended time', async () => {
    const early: number[] = [];
    let seen = 0;
    await new Promise<void>((resolve) => {
      const ticker = startTicker({
        periodMs: 1.5,
        metronome,
        catchUpTicks: Infinity,
        onTick: (tick, intendedMs) => {
          expect(tick).toBe(seen++);
          if (performance.now() < intendedMs) early.push(tick);
          if (seen === 50) {
            ticker.stop();
            resolve();
          }
        },
      });
    });
    expect(early).toEqual([]);
  });

  test('keeps the process alive until stop, and not after it', async () => {
    const script = `
      const ticker = startTicker({ periodMs: 1, metronome: ${metronome === workerMetronome ? 'workerMetronome' : 'timerMetronome'}, onTick: (tick) => {
        if (tick < 20) return;
        ticker.stop();
        process.stdout.write('stopped');
      } });`;
    const source = await readFile(new URL('../../../net/ticker.ts', import.meta.url), 'utf8');
    const { outputText } = transpileModule(source, { compilerOptions: { module: ModuleKind.ESNext } });
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', outputText + script]);
    expect(stdout).toBe('stopped');
  });
});

test('without a thread the ticker goes on by setTimeout', async () => {
  class FailingWorker extends EventEmitter {
    constructor() {
      super();
      setImmediate(() => this.emit('error', new Error('no thread')));
    }
    unref(): void {
      // Nothing to let go of.
    }
  }
  vi.resetModules();
  vi.doMock('node:worker_threads', () => ({ Worker: FailingWorker }));
  const ticker = await import('../../../net/ticker.ts');
  vi.doUnmock('node:worker_threads');
  await new Promise<void>((resolve) => {
    const running = ticker.startTicker({
      periodMs: 1,
      onTick: (tick) => {
        if (tick < 5) return;
        running.stop();
        resolve();
      },
    });
  });
});
