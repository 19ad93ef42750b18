/**
 * Where maps and links outlive the process: a directory of a BPF file system, one for each relay by its name. Whoever runs holds a
 * lock on it (name-lock.ts), so it may be there with nothing in it.
 *
 *     /sys/fs/bpf/tickrelay/NAME/maps/NAME_OF_MAP
 *     /sys/fs/bpf/tickrelay/NAME/links/INTERFACE-ingress, INTERFACE-egress
 *
 * A BPF file system takes no dots in names; they are written as %2E.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, statfsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { BPF_FS_MAGIC } from '../../../net/linux/abi.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';

/** Where distributions mount it. */
export const DEFAULT_BPFFS = '/sys/fs/bpf';

/** The directory below the file system that holds one directory for each relay. */
const OWN_DIRECTORY = 'tickrelay';

export function isBpffs(path: string): boolean {
  try {
    return statfsSync(path).type === BPF_FS_MAGIC;
  } catch {
    return false;
  }
}

/**
 * Mounts a BPF file system at `path` where none is.
 *
 * @throws RelayError TICKRELAY_ERR_ENGINE with the remedy
 */
export function requireBpffs(libc: Libc, path: string): void {
  if (isBpffs(path)) return;
  const mounted = existsSync(path) && libc.mount('bpf', path, 'bpf', 0, 0) === 0;
  if (mounted) return;
  const why = existsSync(path)
    ? `it can't be mounted there (${errnoName(libc.errno())})`
    : 'there is no such directory';
  throw new RelayError(
    'TICKRELAY_ERR_ENGINE',
    `no BPF file system at ${path}, and ${why}; as root: mount -t bpf bpf ${path}`,
  );
}

/** What one relay has pinned. */
export class PinDirectory {
  readonly path: string;

  /** @param bpffs a mounted BPF file system; @param name the relay's */
  constructor(bpffs: string, name: string) {
    this.path = join(bpffs, OWN_DIRECTORY, encode(name));
  }

  /** Relays that have something pinned or run, by name. */
  static names(bpffs: string): readonly string[] {
    return entries(join(bpffs, OWN_DIRECTORY)).map(decode);
  }

  /** Whether something is pinned. */
  get isUsed(): boolean {
    return (['links', 'maps'] as const).some((kind) => entries(join(this.path, kind)).length > 0);
  }

  make(): void {
    for (const kind of ['maps', 'links']) mkdirSync(join(this.path, kind), { recursive: true });
  }

  mapPath(name: string): string {
    return join(this.path, 'maps', name);
  }

  linkPath(name: string): string {
    return join(this.path, 'links', encode(name));
  }

  /** Names of pinned links. */
  links(): readonly string[] {
    return entries(join(this.path, 'links')).map(decode);
  }

  /** What somebody else has removed meanwhile is gone as well. */
  unlink(path: string): void {
    rmSync(path, { force: true });
  }

  /** Unpins everything. Links without another owner are detached by it, and maps freed. */
  remove(): void {
    this.#empty('links');
    this.removeMaps();
    if (existsSync(this.path)) rmdirSync(this.path);
  }

  /** Unpins the maps. Those that an attached program refers to live on with it. */
  removeMaps(): void {
    this.#empty('maps');
  }

  #empty(kind: 'links' | 'maps'): void {
    const directory = join(this.path, kind);
    for (const name of entries(directory)) unlinkSync(join(directory, name));
    if (existsSync(directory)) rmdirSync(directory);
  }
}

function encode(name: string): string {
  return encodeURIComponent(name).replaceAll('.', '%2E');
}

function decode(name: string): string {
  return decodeURIComponent(name);
}

function entries(directory: string): readonly string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}
