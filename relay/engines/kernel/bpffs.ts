/**
 * Where maps and links outlive the process: a directory of a BPF file system, one for each relay by its name. Whoever runs holds a
 * lock on it (name-lock.ts), so it may be there with nothing in it.
 *
 *     /sys/fs/bpf/tickrelay/NAME/maps/NAME_OF_MAP       (new-maps: those that are about to take their place)
 *     /sys/fs/bpf/tickrelay/NAME/links/INTERFACE-ingress, INTERFACE-egress
 *
 * A BPF file system takes no dots in names; they are written as %2E.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { BPF_FS_MAGIC } from '../../../net/linux/abi.ts';
import { errnoName, type Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';

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

  /**
   * Pins maps in the place of those that are there, which live on as long as an attached program refers to them. The old ones are
   * unpinned when all of the new ones are pinned.
   *
   * @param pin is told where each map belongs; when it throws, the old ones stay
   */
  replaceMaps(pin: (pathOf: (name: string) => string) => void): void {
    this.make();
    this.#empty('new-maps');
    const next = join(this.path, 'new-maps');
    mkdirSync(next);
    try {
      pin((name) => join(next, name));
    } catch (error) {
      this.#empty('new-maps');
      throw error;
    }
    this.#empty('maps');
    renameSync(next, join(this.path, 'maps'));
  }

  /** Unpins everything. Links without another owner are detached by it, and maps freed. */
  remove(): void {
    for (const kind of ['links', 'maps', 'new-maps'] as const) this.#empty(kind);
    if (existsSync(this.path)) rmdirSync(this.path);
  }

  #empty(kind: 'links' | 'maps' | 'new-maps'): void {
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
