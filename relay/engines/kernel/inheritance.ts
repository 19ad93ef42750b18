/**
 * What a relay of this name left behind, from the engine's construction until it is this one's or gone. Apart from the engine, since all
 * of it happens once and in this order:
 *
 *  1. adopt: what was left is read, and what is to take its place is loaded; nothing changes
 *  2. replace: links, rules and maps are this relay's from now on
 *  3. the claim's time later: the listeners that this relay was not asked for end, with their sessions, connections and pools
 */
import type { Ground } from './kernel-ground.ts';
import type { KernelPinGroups } from './kernel-pin-groups.ts';
import type { KernelPools } from './kernel-pools.ts';
import type { KernelTcp } from './kernel-tcp.ts';
import type { ListenerTable } from './listener-table.ts';
import type { Attachments } from './programs.ts';
import type { Reach } from './reach.ts';

/** How long listeners of a relay before this one go on before this one, which has not claimed them, removes them, in ms. */
const CLAIM_MS = 10_000;

export interface InheritanceOptions {
  readonly ground: Ground;
  readonly attachments: Attachments;
  readonly listeners: ListenerTable;
  readonly pinGroups: KernelPinGroups;
  readonly pools: KernelPools;
  readonly reach: Reach;
  readonly tcp: KernelTcp;
  /** Ends what is due of sessions, pins and records. */
  readonly sweep: () => Promise<void>;
  readonly onTrouble?: ((error: unknown) => void) | undefined;
}

export class Inheritance {
  readonly #options: InheritanceOptions;
  #isTentative: boolean;
  #claim: NodeJS.Timeout | undefined;
  #claimed: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(options: InheritanceOptions) {
    this.#options = options;
    this.#isTentative = options.ground.adopted !== false;
  }

  /** Whether all is still as a relay before this one left it. */
  get isTentative(): boolean {
    return this.#isTentative;
  }

  /** Until what a relay before this one left, and nobody claimed, is removed. */
  get claimed(): Promise<void> {
    return this.#claimed;
  }

  /** Reads what a relay before this one left, and loads what is to take its place. @throws RelayError */
  adopt(): void {
    const { ground, pools, attachments, tcp } = this.#options;
    const sharesMaps = ground.adopted === true;
    if (sharesMaps) pools.adopt();
    attachments.adopt({ sharesMaps });
    tcp.adopt();
  }

  /**
   * Takes the place of the relay before this one. What can fail comes first, and changes nothing until it has succeeded; so a packet meets
   * the old programs or the new ones, and with maps that go on the old rules or the new ones.
   */
  async replace(): Promise<void> {
    const { ground, pools, attachments, reach, listeners, tcp, pinGroups, onTrouble } = this.#options;
    attachments.attachAwaited();
    const { adopted, pins, maps } = ground;
    if (adopted !== true) maps.pin(pins!);
    attachments.takeOver();
    if (adopted === true) {
      maps.releasePools();
      await pools.release();
      // The listeners' rules have an address of this host for each of their backends, which are known only now.
      for (const pool of pools.all) reach.reach(pool);
      maps.release();
      listeners.takeOver();
      tcp.takeOver();
      pinGroups.forgetAdopted();
      pinGroups.writeViews();
      for (const pool of pools.all) await tcp.published(pool);
    }
    this.#isTentative = false;
    this.#claim = setTimeout(() => {
      this.#claimed = this.#removeUnclaimed().catch((error: unknown) => onTrouble?.(error));
    }, CLAIM_MS).unref();
  }

  /** What is not claimed yet is left as it is. */
  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#claim);
  }

  /** What the relay before this one served and this one was not asked for. */
  async #removeUnclaimed(): Promise<void> {
    const { pools, attachments, listeners, tcp, sweep } = this.#options;
    const removed = listeners.removeUnclaimed();
    const cut = tcp.removeUnclaimed();
    attachments.dropInherited();
    // Before another listener takes their place, and another pool that of theirs.
    if (removed.length > 0) await sweep();
    await cut;
    if (this.#isClosed) return;
    for (const index of removed) listeners.free(index);
    await pools.letGoInherited();
  }
}
