/**
 * Publishes one pool to the programs: writes the snapshot that is not in force, then flips the pool's switch.
 *
 * The kernel's slots and references are its own. Sessions outlive the process, and a restarted control plane counts
 * incarnations from 1 and may give slots in another order; so a backend is known by its address, keeps its slot here, and
 * gets the next incarnation when the control plane's reference to it changes.
 *
 *     control plane:  slot, reference  --by address-->  kernel slot, kernel reference
 */
import assert from 'node:assert/strict';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import type { BackendFigures, Traffic } from '../../core/backend-figures.ts';
import { backendRef, nextIncarnation, type BackendRef } from '../../core/backend-ref.ts';
import { MAX_BACKENDS } from '../../core/limits.ts';
import type { BackendEntry, PoolSnapshot } from '../../core/pool-snapshot.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { MappedArray } from './mapped-array.ts';
import {
  BACKEND,
  ENDPOINT,
  ENDPOINT_KEY,
  FIGURES,
  INTER_ARRIVAL_BUCKETS,
  INTER_ARRIVAL_TICK_BUCKET,
  LIVE,
  POOL,
  PORT,
  PORT_BACKEND,
  REPLY_TIME_BUCKETS,
  SNAPSHOT,
  TICK_NS,
} from './records.ts';
import { U64 } from './struct.ts';
import { TCP_LIVE } from './tcp-maps.ts';

/** A program that read the switch just before a flip is done with the old half after some 10 us; it gets this long, in ms. */
const GRACE_MS = 2;

interface Place {
  readonly endpoint: Endpoint;
  ref: BackendRef;
  /** The backend as the control plane has it; undefined while it is known from a relay before this one only. */
  entry: BackendEntry | undefined;
  isUsable: boolean;
}

export class PoolWriter {
  readonly index: number;
  readonly #maps: KernelMaps;
  /** By kernel slot. */
  readonly #places: (Place | undefined)[] = [];
  /** The reference that each slot had last. */
  readonly #lastRefs: (BackendRef | undefined)[] = [];
  #last: Promise<void> = Promise.resolve();
  #publishedMs = Number.NEGATIVE_INFINITY;

  constructor(maps: KernelMaps, index: number) {
    this.#maps = maps;
    this.index = index;
  }

  /** Knows the backends that a relay before this one published. */
  adopt(): void {
    const memory = this.#maps.snapshot(this.index, this.#half);
    const slots = memory.getU32(SNAPSHOT.at.slots);
    for (let slot = 0; slot < slots; slot++) {
      const at = SNAPSHOT.at.backends + slot * BACKEND.size;
      const port = memory.u16[(at + BACKEND.at.port) >> 1]!;
      const ref = memory.getU32(at + BACKEND.at.ref);
      if (ref !== 0) this.#lastRefs[slot] = ref;
      if (port === 0) continue;
      const ip = new IpAddress(memory.bytes.subarray(at + BACKEND.at.address, at + BACKEND.at.address + 16));
      const isUsable = memory.getU32(at + BACKEND.at.usable) !== 0;
      this.#places[slot] = { endpoint: new Endpoint(ip, port), ref, entry: undefined, isUsable };
    }
  }

  /** @returns resolves when the programs obey; publications of a pool take effect in their order */
  publish(snapshot: PoolSnapshot): Promise<void> {
    // What failed before is told to who published that.
    this.#last = this.#last
      .catch(() => undefined)
      .then(async () => {
        const waitMs = this.#publishedMs + GRACE_MS - performance.now();
        if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, Math.ceil(waitMs)));
        this.#write(snapshot);
        this.#publishedMs = performance.now();
      });
    return this.#last;
  }

  /** Resolves when nothing is being published. */
  async idle(): Promise<void> {
    await this.#last.catch(() => undefined);
  }

  /** The backend that a reference of the kernel still means. */
  backendOf(ref: BackendRef): BackendEntry | undefined {
    const place = this.#places[ref & (MAX_BACKENDS - 1)];
    return place?.ref === ref ? place.entry : undefined;
  }

  /** Whether the reference means a backend that is ready or draining. */
  isUsable(ref: BackendRef): boolean {
    const place = this.#places[ref & (MAX_BACKENDS - 1)];
    return place?.ref === ref && place.isUsable;
  }

  /** Backends with their kernel slot and reference, live sessions, and TCP connections that have not ended. */
  *backends(): Generator<{
    readonly slot: number;
    readonly ref: BackendRef;
    readonly isUsable: boolean;
    readonly entry: BackendEntry;
    readonly liveSessions: number;
    readonly liveConnections: number;
  }> {
    const { live, tcp_live } = this.#maps.mapped;
    for (const [slot, place] of this.#places.entries()) {
      if (place?.entry === undefined) continue;
      const at = live.at(this.index, slot * LIVE.size);
      const isOwn = live.getU32(at + LIVE.at.ref) === place.ref;
      const liveSessions = isOwn ? live.getU32(at + LIVE.at.sessions) : 0;
      const tcp = tcp_live.at(this.index, slot * TCP_LIVE.size);
      const isOwnTcp = tcp_live.getU32(tcp + TCP_LIVE.at.ref) === place.ref;
      const liveConnections = isOwnTcp ? tcp_live.getU32(tcp + TCP_LIVE.at.connections) : 0;
      const { ref, entry, isUsable } = place;
      yield { slot, ref, isUsable, entry, liveSessions, liveConnections };
    }
  }

  /** Addresses of all backends, those included that only a relay before this one has published so far. */
  endpoints(): readonly Endpoint[] {
    return this.#places.flatMap((place) => (place === undefined ? [] : [place.endpoint]));
  }

  /** Figures of the backend in this slot. */
  figures(slot: number): BackendFigures {
    const { figures } = this.#maps.mapped;
    const read = (name: keyof typeof FIGURES.at, i = 0): number =>
      figures.getU64(figures.at(this.index * MAX_BACKENDS + slot, FIGURES.at[name] + i * U64));
    const traffic = (direction: 'Downstream' | 'Upstream'): Traffic => ({
      datagrams: read(`datagrams${direction}`),
      bytes: read(`bytes${direction}`),
    });
    return {
      downstream: traffic('Downstream'),
      upstream: traffic('Upstream'),
      gaps: read('gaps'),
      intervals: {
        boundsSeconds: INTERVAL_BOUNDS_SECONDS,
        counts: Array.from({ length: INTER_ARRIVAL_BUCKETS }, (_, i) => read('interArrival', i)),
      },
      replyTimes: {
        boundsSeconds: REPLY_BOUNDS_SECONDS,
        counts: Array.from({ length: REPLY_TIME_BUCKETS }, (_, i) => read('replyTime', i)),
        sumSeconds: read('replyTimeSumNs') / 1e9,
      },
    };
  }

  get #half(): number {
    const { pools } = this.#maps.mapped;
    return pools.getU32(pools.at(this.index, POOL.at.half));
  }

  #write(snapshot: PoolSnapshot): void {
    const left = this.#takeOver(snapshot);
    const { ports, tcp_ports, tcp_live } = this.#maps.mapped;
    for (const [slot, place] of this.#places.entries()) {
      if (place === undefined) continue;
      const { ip, port } = place.endpoint;
      for (const map of [ports, tcp_ports]) {
        const at = map.at(port, PORT.at.flags);
        map.setU16(at, map.u16[at >> 1]! | PORT_BACKEND);
      }
      const cap = place.entry?.maxConnections ?? 0;
      tcp_live.setU32(tcp_live.at(this.index, slot * TCP_LIVE.size + TCP_LIVE.at.cap), cap);
      this.#maps.maps.endpoints.update(this.#endpointKey(ip, port), PRESENT);
    }
    const half = 1 - this.#half;
    this.#fill(this.#maps.snapshot(this.index, half), snapshot);
    const { pools } = this.#maps.mapped;
    Atomics.store(pools.u32, pools.at(this.index, POOL.at.half) >> 2, half);
    for (const { ip, port } of left) this.#maps.maps.endpoints.delete(this.#endpointKey(ip, port));
  }

  /** Gives every backend of the snapshot its place and reference. @returns the endpoints that have left */
  #takeOver(snapshot: PoolSnapshot): readonly Endpoint[] {
    const entries = snapshot.backends.filter((entry) => entry !== undefined);
    const left: Endpoint[] = [];
    for (const [slot, place] of this.#places.entries()) {
      if (place === undefined || entries.some(({ endpoint }) => endpoint.equals(place.endpoint))) continue;
      left.push(place.endpoint);
      this.#lastRefs[slot] = nextIncarnation(place.ref);
      this.#places[slot] = undefined;
    }
    const known = new Map(
      this.#places.flatMap((place) => (place === undefined ? [] : [[place.endpoint.toString(), place]])),
    );
    for (const entry of entries) {
      const place = known.get(entry.endpoint.toString()) ?? this.#newPlace(entry);
      const isUsable = snapshot.usable[entry.slot] !== 0;
      // Of a backend that is known from a relay before this one, only the end of its usability is news.
      const isRenewed =
        place.entry === undefined ? place.isUsable && !isUsable : place.entry.ref !== entry.ref;
      if (isRenewed) place.ref = nextIncarnation(place.ref);
      place.entry = entry;
      place.isUsable = isUsable;
    }
    return left;
  }

  /** The same slot as the control plane's if it is free, so that they differ only after a restart. */
  #newPlace(entry: BackendEntry): Place {
    const isFree = (slot: number): boolean => this.#places[slot] === undefined;
    let slot = entry.slot;
    for (let other = 0; !isFree(slot); other++) slot = other;
    assert(slot < MAX_BACKENDS);
    const ref = this.#lastRefs[slot] ?? backendRef(slot, 1);
    const place = { endpoint: entry.endpoint, ref, entry, isUsable: false };
    this.#places[slot] = place;
    this.#maps.mapped.figures.clear(this.index * MAX_BACKENDS + slot);
    return place;
  }

  #fill(memory: MappedArray, snapshot: PoolSnapshot): void {
    const { at } = SNAPSHOT;
    /** Kernel slots by the control plane's. */
    const slotOf = new Uint16Array(MAX_BACKENDS);
    for (const [slot, place] of this.#places.entries()) {
      if (place?.entry !== undefined) slotOf[place.entry.slot] = slot;
    }
    const fillSlots = (field: number, slots: Uint16Array): void => {
      memory.u16.set(
        slots.map((slot) => slotOf[slot]!),
        field >> 1,
      );
    };
    memory.setU32(at.readyCount, snapshot.ready.length);
    memory.setU32(at.rotationLength, snapshot.rotation.length);
    memory.setU32(at.slots, Math.max(this.#places.length, this.#lastRefs.length));
    memory.setU32(at.epoch, snapshot.epoch);
    fillSlots(at.ready, snapshot.ready);
    fillSlots(at.maglev, snapshot.maglev);
    fillSlots(at.rotation, snapshot.rotation);
    memory.bytes.fill(0, at.backends, at.backends + MAX_BACKENDS * BACKEND.size);
    for (const [slot, ref] of this.#lastRefs.entries()) {
      // The reference of a slot that is free stays, so that a restarted relay does not give it again.
      memory.setU32(at.backends + slot * BACKEND.size + BACKEND.at.ref, ref ?? 0);
    }
    for (const [slot, place] of this.#places.entries()) {
      if (place !== undefined) fillBackend(memory, at.backends + slot * BACKEND.size, place);
    }
    for (const [i, slot] of snapshot.ready.entries()) {
      memory.setU32(at.backends + slotOf[slot]! * BACKEND.size + BACKEND.at.readyIndex, i);
    }
  }

  #endpointKey(ip: IpAddress, port: number): Uint8Array {
    const key = new Uint8Array(ENDPOINT_KEY.size);
    key.set(ip.bytes, ENDPOINT_KEY.at.address);
    const view = new DataView(key.buffer);
    view.setUint16(ENDPOINT_KEY.at.port, port, true);
    view.setUint16(ENDPOINT_KEY.at.pool, this.index, true);
    return key;
  }
}

/** Bucket i counts intervals below sqrt(2) * 2^(i - 4) ticks, and the last one the rest. */
const INTERVAL_BOUNDS_SECONDS = Array.from(
  { length: INTER_ARRIVAL_BUCKETS - 1 },
  (_, i) => (TICK_NS * Math.SQRT2 * 2 ** (i - INTER_ARRIVAL_TICK_BUCKET)) / 1e9,
);

/** Bucket i counts times below 2^(i + 11) ns, and the last one the rest. */
const REPLY_BOUNDS_SECONDS = Array.from({ length: REPLY_TIME_BUCKETS - 1 }, (_, i) => 2 ** (i + 11) / 1e9);

const PRESENT = new Uint8Array(ENDPOINT.size).fill(1, 0, 1);

function fillBackend(memory: MappedArray, at: number, { endpoint, ref, entry, isUsable }: Place): void {
  memory.bytes.set(endpoint.ip.bytes, at + BACKEND.at.address);
  memory.setU16(at + BACKEND.at.port, endpoint.port);
  memory.setU16(at + BACKEND.at.weight, entry?.weight ?? 1);
  memory.setU32(at + BACKEND.at.usable, isUsable ? ref : 0);
  memory.setU32(at + BACKEND.at.ref, ref);
}
