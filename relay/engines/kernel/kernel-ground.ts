/**
 * What a kernel engine stands on: the name, which one relay has at a time, the BPF file system, the maps, and the program that
 * does its bidding.
 */
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { PinDirectory, requireBpffs } from './bpffs.ts';
import { KernelMaps } from './kernel-maps.ts';
import { Bpf } from './loader.ts';
import type { MapSizes } from './maps.ts';
import { type NameLock, takeName, takeNameOfDead } from './name-lock.ts';
import { loadProgram } from './programs.ts';
import { GAUGES } from './records.ts';
import { Steward } from './steward.ts';

export interface GroundOptions {
  readonly libc: Libc;
  /** The relay's name. */
  readonly name: string;
  /** The BPF file system to pin to; absent: nothing outlives the process. */
  readonly bpffs?: string | undefined;
  readonly sizes: MapSizes;
}

export interface Ground {
  readonly bpf: Bpf;
  readonly lock: NameLock | undefined;
  readonly pins: PinDirectory | undefined;
  readonly maps: KernelMaps;
  readonly steward: Steward;
  /**
   * Whether the maps are those of a relay before this one, which are held; a text says why what it left does not fit, and then the maps are
   * new ones that nobody has pinned yet.
   */
  readonly adopted: boolean | string;
}

/** On a failure nothing stays open. @throws RelayError TICKRELAY_ERR_ENGINE */
export function openGround({ libc, name, bpffs, sizes }: GroundOptions): Ground {
  const opened: (() => void)[] = [];
  try {
    const bpf = new Bpf(libc);
    opened.push(() => bpf.close());
    const pins = bpffs === undefined ? undefined : findPins(libc, bpffs, name);
    const lock = pins && lockName(libc, name, pins);
    opened.push(() => lock?.release());
    const isLeft = pins?.isUsed === true;
    opened.push(() => {
      if (!isLeft) pins?.remove();
    });
    const left = isLeft ? KernelMaps.adopt(bpf, sizes, pins) : undefined;
    const maps = left instanceof KernelMaps ? left : KernelMaps.create(bpf, sizes);
    opened.push(() => maps.close());
    const program = loadProgram(bpf, maps, { hook: 'steward' });
    const steward = new Steward(bpf, program, maps.mapped.requests);
    opened.push(() => steward.close());
    if (pins !== undefined && !isLeft) maps.pin(pins);
    const adopted = left instanceof KernelMaps ? true : (left ?? false);
    return { bpf, lock, pins, maps, steward, adopted };
  } catch (error) {
    for (const close of opened.reverse()) close();
    throw error;
  }
}

/** @param isKept whether what is pinned outlives the process */
export function closeGround({ bpf, lock, pins, maps, steward }: Ground, isKept: boolean): void {
  if (!isKept) pins?.remove();
  steward.close();
  maps.close();
  bpf.close();
  lock?.release();
}

/** How an engine begins, for the log: anew, or with the sessions and the TCP connections of a relay before it. */
export function describeOrigin(
  { maps, adopted }: Ground,
  { connections, ...options }: GroundOptions & { readonly connections: number },
): string {
  const mib = Math.ceil(maps.memoryBytes / 2 ** 20);
  const memory = `${mib} MiB of kernel memory for ${options.sizes.maxSessions} sessions`;
  const dead = deadRelays(options).map(
    (name) => `; dead relay "${name}" is still attached, \`tickrelay detach ${name}\` removes it`,
  );
  const rest = dead.join('');
  if (adopted === false) return `${memory}${rest}`;
  if (typeof adopted === 'string')
    return `${memory}; the sessions of the relay before this one could not be adopted: ${adopted}${rest}`;
  const tcp = connections === 0 ? '' : ` and ${connections} TCP connections`;
  return `${memory}; adopted ${maps.mapped.gauges.getU64(GAUGES.at.sessions)} sessions${tcp}${rest}`;
}

/** Other relays that left something in the file system and do not run: they still take their listeners' datagrams. */
function deadRelays({ libc, name, bpffs }: Omit<GroundOptions, 'sizes'>): readonly string[] {
  if (bpffs === undefined) return [];
  return PinDirectory.names(bpffs).filter((other) => {
    const pins = new PinDirectory(bpffs, other);
    if (other === name || pins.links().length === 0) return false;
    const lock = takeNameOfDead(libc, pins.path);
    lock?.release();
    return lock !== undefined;
  });
}

function findPins(libc: Libc, bpffs: string, name: string): PinDirectory {
  requireBpffs(libc, bpffs);
  return new PinDirectory(bpffs, name);
}

/** @throws RelayError TICKRELAY_ERR_ENGINE when a relay of this name runs */
function lockName(libc: Libc, name: string, pins: PinDirectory): NameLock {
  const lock = takeName(libc, pins.path);
  if (lock !== undefined) return lock;
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `a relay named "${name}" runs on this machine already, in this or another network namespace; give this one another name (--name)`,
  );
}
