/**
 * A map as user space reads and writes it: one element at a time, or a bounded batch of a walk over all of them. Keys and
 * values are plain bytes; records.ts says what stands in them.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import {
  BPF_ANY,
  BPF_BATCH_ATTR,
  BPF_ELEMENT_ATTR,
  BPF_MAP_DELETE_ELEM,
  BPF_MAP_INFO,
  BPF_MAP_LOOKUP_BATCH,
  BPF_MAP_LOOKUP_ELEM,
  BPF_MAP_TYPE_PERCPU_ARRAY,
  BPF_MAP_UPDATE_ELEM,
  EEXIST,
  ENOENT,
  ENOSPC,
} from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { type Bpf, failure, type MapSpec } from './loader.ts';

export class BpfMap {
  readonly spec: MapSpec;
  readonly fd: number;
  /** Bytes of a value as user space sees it: of a per-CPU map, those of all CPUs. */
  readonly valueBytes: number;
  readonly #bpf: Bpf;
  readonly #memory: Arena;
  readonly #key: number;
  readonly #value: number;

  /** Takes the descriptor over. */
  constructor(bpf: Bpf, spec: MapSpec, fd: number) {
    this.#bpf = bpf;
    this.spec = spec;
    this.fd = fd;
    this.valueBytes = valueBytesOf(spec);
    this.#memory = new Arena(bpf.libc, align(spec.keySize) + align(this.valueBytes));
    this.#key = this.#memory.take(spec.keySize);
    this.#value = this.#memory.take(this.valueBytes);
  }

  static create(bpf: Bpf, spec: MapSpec): BpfMap {
    return new BpfMap(bpf, spec, bpf.createMap(spec));
  }

  /** Copies the value into `value`. @returns whether there is one */
  lookup(key: Uint8Array, value: Uint8Array): boolean {
    const result = this.#element(BPF_MAP_LOOKUP_ELEM, key, undefined, 0);
    if (result === -ENOENT) return false;
    if (result < 0) throw failure(`read the map ${this.spec.name}`, result);
    value.set(this.#memory.bytes.subarray(this.#value, this.#value + this.valueBytes));
    return true;
  }

  /**
   * @param flags BPF_ANY, BPF_NOEXIST (only a new element) or BPF_EXIST (only one that is there)
   * @returns whether the element is stored; false when `flags` forbade it
   */
  update(key: Uint8Array, value: Uint8Array, flags: number = BPF_ANY): boolean {
    const result = this.#element(BPF_MAP_UPDATE_ELEM, key, value, flags);
    if (result === -EEXIST || result === -ENOENT) return false;
    if (result < 0) throw failure(`write the map ${this.spec.name}`, result);
    return true;
  }

  /** @returns whether there was such an element */
  delete(key: Uint8Array): boolean {
    const result = this.#element(BPF_MAP_DELETE_ELEM, key, undefined, 0);
    if (result === -ENOENT) return false;
    if (result < 0) throw failure(`delete from the map ${this.spec.name}`, result);
    return true;
  }

  /** For arrays, whose keys are indexes. */
  lookupAt(index: number, value: Uint8Array): void {
    assert(this.lookup(indexKey(index), value));
  }

  updateAt(index: number, value: Uint8Array): void {
    assert(this.update(indexKey(index), value));
  }

  close(): void {
    this.#bpf.closeFd(this.fd);
    this.#memory.free();
  }

  #element(command: number, key: Uint8Array, value: Uint8Array | undefined, flags: number): number {
    const { bytes, address } = this.#memory;
    assert.equal(key.length, this.spec.keySize);
    bytes.set(key, this.#key);
    if (value !== undefined) {
      assert.equal(value.length, this.valueBytes);
      bytes.set(value, this.#value);
    }
    return this.#bpf.run(command, (attributes) => {
      attributes.u32(BPF_ELEMENT_ATTR.map, this.fd);
      attributes.pointer(BPF_ELEMENT_ATTR.key, address + this.#key);
      if (command !== BPF_MAP_DELETE_ELEM) {
        attributes.pointer(BPF_ELEMENT_ATTR.value, address + this.#value);
      }
      attributes.u32(BPF_ELEMENT_ATTR.flags, flags);
    });
  }
}

/**
 * Walks over a hash map, a bounded number of elements a step; each element that lives through the whole walk is seen once.
 * The bytes of a step stay valid until the next one.
 */
export class MapWalk {
  /** Elements of the last step, back to back. */
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
  readonly #bpf: Bpf;
  readonly #map: BpfMap;
  readonly #memory: Arena;
  readonly #keysAt: number;
  readonly #valuesAt: number;
  readonly #room: number;
  #started = false;

  /** @param room most elements of a step; a bucket of the map must fit, so take 64 or more */
  constructor(bpf: Bpf, map: BpfMap, room: number) {
    this.#bpf = bpf;
    this.#map = map;
    this.#room = room;
    const { keySize } = map.spec;
    this.#memory = new Arena(bpf.libc, 64 + align(room * keySize) + align(room * map.valueBytes));
    this.#memory.take(64);
    this.#keysAt = this.#memory.take(room * keySize);
    this.#valuesAt = this.#memory.take(room * map.valueBytes);
    this.keys = this.#memory.bytes.subarray(this.#keysAt, this.#keysAt + room * keySize);
    this.values = this.#memory.bytes.subarray(this.#valuesAt, this.#valuesAt + room * map.valueBytes);
  }

  /** @returns how many elements are in `keys` and `values`, and whether the walk has come round */
  step(most: number = this.#room): { readonly count: number; readonly isEnd: boolean } {
    const { address } = this.#memory;
    const result = this.#bpf.run(BPF_MAP_LOOKUP_BATCH, (attributes) => {
      if (this.#started) attributes.pointer(BPF_BATCH_ATTR.in, address);
      attributes.pointer(BPF_BATCH_ATTR.out, address);
      attributes.pointer(BPF_BATCH_ATTR.keys, address + this.#keysAt);
      attributes.pointer(BPF_BATCH_ATTR.values, address + this.#valuesAt);
      attributes.u32(BPF_BATCH_ATTR.count, Math.min(most, this.#room));
      attributes.u32(BPF_BATCH_ATTR.map, this.#map.fd);
    });
    if (result < 0 && result !== -ENOENT) {
      // A bucket that does not fit the step: with ENOSPC the walk stays where it is.
      if (result === -ENOSPC && most < this.#room) return this.step(this.#room);
      throw failure(`walk over the map ${this.#map.spec.name}`, result);
    }
    const isEnd = result === -ENOENT;
    this.#started = !isEnd;
    return { count: this.#bpf.answer(BPF_BATCH_ATTR.count), isEnd };
  }

  /** The next step begins at the beginning. */
  restart(): void {
    this.#started = false;
  }

  close(): void {
    this.#memory.free();
  }
}

/** Whether the pinned map is as `spec` says, so that it can be taken over. */
export function isMapLike(bpf: Bpf, fd: number, spec: MapSpec): boolean {
  const info = bpf.info(fd);
  const read = (at: number): number => info.getUint32(at, true);
  return (
    read(BPF_MAP_INFO.type) === spec.type &&
    read(BPF_MAP_INFO.keySize) === spec.keySize &&
    read(BPF_MAP_INFO.valueSize) === spec.valueSize &&
    read(BPF_MAP_INFO.maxEntries) === spec.maxEntries
  );
}

let cpus: number | undefined;

/** CPUs that the kernel reserves per-CPU values for: more, perhaps, than are there. */
export function possibleCpus(): number {
  cpus ??= Number(/(\d+)\s*$/.exec(readFileSync('/sys/devices/system/cpu/possible', 'utf8'))![1]) + 1;
  return cpus;
}

function valueBytesOf({ type, valueSize }: MapSpec): number {
  return type === BPF_MAP_TYPE_PERCPU_ARRAY ? Math.ceil(valueSize / 8) * 8 * possibleCpus() : valueSize;
}

const INDEX_KEY = new Uint8Array(4);
const INDEX = new DataView(INDEX_KEY.buffer);

function indexKey(index: number): Uint8Array {
  INDEX.setUint32(0, index, true);
  return INDEX_KEY;
}

function align(size: number): number {
  return Math.ceil(size / 64) * 64;
}
