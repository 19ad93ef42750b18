/**
 * What the kernel engine does by the clock, though no packet waits for it: a part of a sweep every SWEEP_INTERVAL_MS, and a look for
 * interfaces and routes that changed. The sweep of everything at once, for who can't wait for its turn, is here, too.
 */
import type { KernelTcp } from './kernel-tcp.ts';
import type { Reach } from './reach.ts';
import type { Sweeper, WalkName } from './sweeper.ts';

/** Time between two parts of a sweep, and what one may take, in ms. */
const SWEEP_INTERVAL_MS = 50;
const SWEEP_BUDGET_MS = 4;

/** How often is looked for interfaces that came up, and routes to backends that changed, in ms. */
const INTERFACES_INTERVAL_MS = 2_000;

export interface UpkeepOptions {
  readonly sweeper: Sweeper;
  readonly tcp: KernelTcp;
  readonly reach: Reach;
  readonly onTrouble?: ((error: unknown) => void) | undefined;
}

export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #timers: NodeJS.Timeout[] = [];
  #isStopped = false;

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  start(): void {
    const { sweeper, tcp, reach, onTrouble } = this.#options;
    const sweep = setInterval(() => {
      try {
        sweeper.sweepDue(SWEEP_BUDGET_MS);
        tcp.sweep(SWEEP_BUDGET_MS);
      } catch (error) {
        onTrouble?.(error);
      }
    }, SWEEP_INTERVAL_MS);
    // The sweep keeps the process alive, as sockets would: the programs need none.
    this.#timers.push(sweep, setInterval(() => reach.follow(), INTERFACES_INTERVAL_MS).unref());
  }

  /** A sweep of everything that is under way ends after its part. */
  stop(): void {
    this.#isStopped = true;
    for (const timer of this.#timers) clearInterval(timer);
  }

  /**
   * Looks at everything once and ends what is due, in parts between which the event loop has its turn.
   *
   * @param onPart is told what each part walked over, and how long it took
   */
  async sweep(onPart?: (walk: WalkName, tookMs: number) => void): Promise<void> {
    const { sweeper } = this.#options;
    sweeper.startRound();
    while (!this.#isStopped) {
      const startMs = performance.now();
      const { walk, isEnd } = sweeper.sweepRound(SWEEP_BUDGET_MS);
      onPart?.(walk, performance.now() - startMs);
      if (isEnd) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}
