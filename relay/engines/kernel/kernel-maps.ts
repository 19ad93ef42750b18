/**
 * All maps of one relay as a whole: made new, or taken over from a relay that left them pinned.
 *
 * Beside those of maps.ts there is `names`, which no program reads: which listener and which pool an index means, so that a
 * restarted relay finds its own again.
 */
import { BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_MAP_TYPE_ARRAY } from '../../../net/linux/abi.ts';
import { MAX_LISTENERS } from '../../core/limits.ts';
import { BpfMap, isMapLike } from './bpf-map.ts';
import type { PinDirectory } from './bpffs.ts';
import type { Bpf, MapSpec } from './loader.ts';
import { halfOpenPlaces, type MapName, type MapSizes, mapSpecs, restPlaces, SNAPSHOT_MAP } from './maps.ts';
import { MappedArray } from './mapped-array.ts';
import { LAYOUT_VERSION, SETTINGS } from './records.ts';
import { NAME_BYTES } from './tcp-maps.ts';

/** Arrays that the engine reads and writes in place. */
const MAPPED = [
  'settings',
  'ports',
  'rules',
  'pools',
  'listener_state',
  'live',
  'figures',
  'gauges',
  'rest_ends',
  'requests',
  'tcp_ports',
  'tcp_rules',
  'tcp_names',
  'tcp_state',
  'tcp_live',
  'tcp_gauges',
  'tcp_requests',
] as const satisfies readonly MapName[];
type MappedName = (typeof MAPPED)[number];

/** Those that say what the programs do at which port; then those that say how. PORT.repliesTo is the programs' own, and stays so. */
const HELD_PORTS = ['ports', 'tcp_ports'] as const satisfies readonly MappedName[];
const HELD_RULES = ['settings', 'rules', 'tcp_rules', 'tcp_names'] as const satisfies readonly MappedName[];

export class KernelMaps {
  readonly sizes: MapSizes;
  readonly maps: Readonly<Record<MapName, BpfMap>>;
  readonly mapped: Readonly<Record<MappedName, MappedArray>>;
  /** Listener names by index, then pool names. */
  readonly names: Names;
  /** The same of TCP listeners, without pools. */
  readonly tcpNames: Names;
  readonly #bpf: Bpf;
  readonly #namesMap: BpfMap;
  readonly #snapshots = new Map<number, { readonly map: BpfMap; readonly memory: MappedArray }>();
  #pins: PinDirectory | undefined;
  #isHeld = false;
  /** Snapshots that were made since the maps are held; undefined when they are not. */
  #awaited: Set<number> | undefined;

  private constructor(bpf: Bpf, sizes: MapSizes, open: (spec: MapSpec) => number) {
    this.#bpf = bpf;
    this.sizes = sizes;
    const specs = mapSpecs(sizes);
    const maps: Partial<Record<MapName, BpfMap>> = {};
    const opened: BpfMap[] = [];
    try {
      for (const [name, spec] of Object.entries(specs) as [MapName, MapSpec][]) {
        maps[name] = new BpfMap(bpf, spec, open(spec));
        opened.push(maps[name]);
      }
      this.#namesMap = new BpfMap(bpf, namesSpec(sizes), open(namesSpec(sizes)));
      opened.push(this.#namesMap);
    } catch (error) {
      for (const map of opened) map.close();
      throw error;
    }
    this.maps = maps as Record<MapName, BpfMap>;
    const mapped = MAPPED.map((name) => [name, new MappedArray(bpf.libc, specs[name], this.maps[name].fd)]);
    this.mapped = Object.fromEntries(mapped) as Record<MappedName, MappedArray>;
    this.names = new Names(new MappedArray(bpf.libc, this.#namesMap.spec, this.#namesMap.fd));
    this.tcpNames = new Names(this.mapped.tcp_names);
  }

  /** @throws RelayError TICKRELAY_ERR_ENGINE, for want of memory for instance */
  static create(bpf: Bpf, sizes: MapSizes): KernelMaps {
    const maps = new KernelMaps(bpf, sizes, (spec) => makeMap(bpf, spec));
    maps.mapped.settings.setU32(SETTINGS.at.layoutVersion, LAYOUT_VERSION);
    maps.mapped.settings.setU32(SETTINGS.at.halfOpenMask, halfOpenPlaces(sizes.maxSessions) - 1);
    maps.mapped.settings.setU32(SETTINGS.at.restPlaces, restPlaces(sizes.maxSessions));
    return maps;
  }

  /**
   * Takes over what is pinned. Maps that a later version of the programs brought with it are made; one that is there must
   * be as this version lays it out. What this relay changes is held back until `release`.
   *
   * @returns the maps, or why they don't fit
   */
  static adopt(bpf: Bpf, sizes: MapSizes, pins: PinDirectory): KernelMaps | string {
    const specs = [...Object.values(mapSpecs(sizes)), namesSpec(sizes)];
    const fds = new Map<string, number>();
    for (const { name } of specs) {
      const fd = bpf.open(pins.mapPath(name));
      if (fd !== undefined) fds.set(name, fd);
    }
    const why = whyUnfit(bpf, specs, fds);
    if (why !== undefined) {
      for (const fd of fds.values()) bpf.closeFd(fd);
      return why;
    }
    const maps = new KernelMaps(bpf, sizes, (spec) => {
      const fd = fds.get(spec.name);
      if (fd !== undefined) return fd;
      const made = makeMap(bpf, spec);
      bpf.pin(made, pins.mapPath(spec.name));
      return made;
    });
    maps.#pins = pins;
    maps.#hold();
    return maps;
  }

  /** Descriptors by map, as the programs refer to them. */
  get fds(): Readonly<Record<MapName, number>> {
    const entries = Object.entries(this.maps).map(([name, { fd }]) => [name, fd]);
    return Object.fromEntries(entries) as Record<MapName, number>;
  }

  /** Bytes of kernel memory that the maps take from the start, about: hash elements have some 48 bytes of their own. */
  get memoryBytes(): number {
    return Object.values(this.maps).reduce((sum, { spec, valueBytes }) => {
      if (((spec.flags ?? 0) & BPF_F_NO_PREALLOC) !== 0) return sum;
      const own = spec.type === BPF_MAP_TYPE_ARRAY ? 0 : 48 + Math.ceil(spec.keySize / 8) * 8;
      return sum + spec.maxEntries * (valueBytes + own);
    }, 0);
  }

  /** Whether the programs still go by what a relay before this one wrote. */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** Ahead of `release`: what pools need that are published before the listeners are known. To the programs it means nothing yet. */
  releasePools(): void {
    for (const name of HELD_PORTS) this.mapped[name].release();
    for (const index of this.#awaited ?? []) this.#publishSnapshot(index, this.#snapshots.get(index)!.map);
    this.#awaited = undefined;
  }

  /** Lets the programs have everything that was held back. */
  release(): void {
    this.releasePools();
    for (const name of HELD_RULES) this.mapped[name].release();
    this.names.memory.release();
    this.#isHeld = false;
  }

  /** Lets the maps outlive the process, in the place of those that are pinned there. */
  pin(pins: PinDirectory): void {
    const snapshots = Array.from(this.#snapshots, ([index, { map }]) => [snapshotName(index), map] as const);
    const maps = [...Object.values(this.maps), this.#namesMap].map((map) => [map.spec.name, map] as const);
    pins.replaceMaps((pathOf) => {
      for (const [name, map] of [...maps, ...snapshots]) this.#bpf.pin(map.fd, pathOf(name));
    });
    this.#pins = pins;
  }

  /** One of the two snapshots of a pool; made when it is first asked for. */
  snapshot(pool: number, half: number): MappedArray {
    const index = pool * 2 + half;
    let entry = this.#snapshots.get(index);
    if (entry === undefined) {
      const map = this.#openSnapshot(index);
      entry = { map, memory: new MappedArray(this.#bpf.libc, SNAPSHOT_MAP, map.fd) };
      this.#snapshots.set(index, entry);
    }
    return entry.memory;
  }

  close(): void {
    for (const array of [...Object.values(this.mapped), this.names.memory]) array.unmap();
    for (const map of [...Object.values(this.maps), this.#namesMap]) map.close();
    for (const { map, memory } of this.#snapshots.values()) {
      memory.unmap();
      map.close();
    }
  }

  #hold(): void {
    for (const name of [...HELD_PORTS, ...HELD_RULES]) this.mapped[name].hold();
    this.names.memory.hold();
    this.#isHeld = true;
    this.#awaited = new Set();
  }

  #openSnapshot(index: number): BpfMap {
    const path = this.#pins?.mapPath(snapshotName(index));
    const pinned = path === undefined ? undefined : this.#bpf.open(path);
    if (pinned !== undefined) return new BpfMap(this.#bpf, SNAPSHOT_MAP, pinned);
    const map = BpfMap.create(this.#bpf, SNAPSHOT_MAP);
    if (this.#awaited === undefined) this.#publishSnapshot(index, map);
    else this.#awaited.add(index);
    return map;
  }

  #publishSnapshot(index: number, { fd }: BpfMap): void {
    this.maps.snapshots.updateAt(index, new Uint8Array(Uint32Array.of(fd).buffer));
    if (this.#pins !== undefined) this.#bpf.pin(fd, this.#pins.mapPath(snapshotName(index)));
  }
}

/** In the place of a listener's name: it was removed, and what it left under its index has yet to end. Reads as an empty text. */
const LEAVING = Uint8Array.of(0, 1);

/** Texts by index; empty where there is none. */
export class Names {
  readonly memory: MappedArray;

  constructor(memory: MappedArray) {
    this.memory = memory;
  }

  /** @param text one that is unique among listeners, and tells whether it is still the same one */
  listener(index: number): string {
    return this.#get(index);
  }

  setListener(index: number, text: string): void {
    this.#set(index, text);
  }

  /** Takes the listener's name; its index is another one's only after `freeListener`, in this relay and in one after it. */
  leaveListener(index: number): void {
    this.memory.clear(index);
    this.memory.bytes.set(LEAVING, index * NAME_BYTES);
  }

  /** Whether a listener was removed from the index, and nobody has said yet that all that it left has ended. */
  isLeaving(index: number): boolean {
    const at = index * NAME_BYTES;
    return LEAVING.every((byte, i) => this.memory.bytes[at + i] === byte);
  }

  /** Whether another listener may have the index. */
  isFree(index: number): boolean {
    return this.listener(index) === '' && !this.isLeaving(index);
  }

  /** All that a removed listener left has ended. */
  freeListener(index: number): void {
    if (this.isLeaving(index)) this.memory.clear(index);
  }

  pool(index: number): string {
    return this.#get(MAX_LISTENERS + index);
  }

  setPool(index: number, text: string): void {
    this.#set(MAX_LISTENERS + index, text);
  }

  #get(index: number): string {
    const bytes = this.memory.bytes.subarray(index * NAME_BYTES, (index + 1) * NAME_BYTES);
    return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString();
  }

  #set(index: number, text: string): void {
    this.memory.clear(index);
    this.memory.bytes.set(Buffer.from(text).subarray(0, NAME_BYTES - 1), index * NAME_BYTES);
  }
}

function snapshotName(index: number): string {
  return `snapshot-${index}`;
}

/** @returns the map's descriptor. @throws RelayError TICKRELAY_ERR_ENGINE */
function makeMap(bpf: Bpf, spec: MapSpec): number {
  if (spec.name !== 'snapshots') return bpf.createMap(spec);
  const template = bpf.createMap(SNAPSHOT_MAP);
  try {
    return bpf.createMap(spec, template);
  } finally {
    bpf.closeFd(template);
  }
}

/** Why the pinned maps can't be taken over by this version under this configuration; undefined when they can. */
function whyUnfit(bpf: Bpf, specs: readonly MapSpec[], fds: ReadonlyMap<string, number>): string | undefined {
  const settings = specs.find(({ name }) => name === 'settings')!;
  const fd = fds.get('settings');
  if (fd === undefined) return 'the map settings is missing';
  if (isMapLike(bpf, fd, settings)) {
    const memory = new MappedArray(bpf.libc, settings, fd);
    const version = memory.getU32(SETTINGS.at.layoutVersion);
    memory.unmap();
    if (version !== LAYOUT_VERSION)
      return `its maps have layout ${version}, this version's have ${LAYOUT_VERSION}`;
  }
  const unlike = specs.find((spec) => {
    const pinned = fds.get(spec.name);
    return pinned !== undefined && !isMapLike(bpf, pinned, spec);
  });
  return unlike && `the map ${unlike.name} has another size`;
}

function namesSpec({ maxPools }: MapSizes): MapSpec {
  return {
    name: 'names',
    type: BPF_MAP_TYPE_ARRAY,
    keySize: 4,
    valueSize: NAME_BYTES,
    maxEntries: MAX_LISTENERS + maxPools,
    flags: BPF_F_MMAPABLE,
  };
}
