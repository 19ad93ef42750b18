/**
 * A walk over the TCP connections in the kernel, some hundred at a time: whoever visits reads what stands in each, and may ask
 * for its end, which the steward brings about. Both ends of what was cut are told at once.
 */
import { Endpoint, formatEndpoint, IpAddress } from '../../../net/address.ts';
import type { CloseReason } from '../../core/close-reason.ts';
import type { TcpConnectionView } from '../engine.ts';
import { MapWalk } from './bpf-map.ts';
import type { KernelMaps } from './kernel-maps.ts';
import type { Bpf } from './loader.ts';
import type { Reset, ResetSender } from './reset-sender.ts';
import { readNs } from './sweeper.ts';
import { TCP_CONNECTION, TCP_KEY, TCP_STATE } from './tcp-maps.ts';
import type { TcpSteward } from './tcp-steward.ts';

/** Connections of one system call. */
const SLICE = 512;

/** What a visitor wants of a connection. */
export interface Wish {
  readonly operation: 'cut' | 'expire';
  /** Of a cut. */
  readonly reason?: CloseReason;
}

export type Visitor = (connection: ConnectionReader) => Wish | undefined;

export interface WalkOptions {
  readonly bpf: Bpf;
  readonly maps: KernelMaps;
  readonly steward: TcpSteward;
  readonly resets: ResetSender;
}

export class ConnectionWalk {
  readonly #walk: MapWalk;
  readonly #reader: ConnectionReader;
  readonly #steward: TcpSteward;
  readonly #resets: ResetSender;

  constructor({ bpf, maps, steward, resets }: WalkOptions) {
    this.#walk = new MapWalk(bpf, maps.maps.tcp_connections, SLICE);
    this.#reader = new ConnectionReader(this.#walk);
    this.#steward = steward;
    this.#resets = resets;
  }

  /** Visits the next slice. @returns whether the walk has come round */
  step(visit: Visitor): boolean {
    const { count, isEnd } = this.#walk.step();
    const asked: number[] = [];
    for (let i = 0; i < count; i++) {
      this.#reader.at = i;
      const wish = visit(this.#reader);
      if (wish === undefined) continue;
      this.#steward.add(wish.operation, this.#reader.key, wish.reason);
      asked.push(i);
    }
    const wasCut = asked.length === 0 ? [] : this.#steward.flush();
    asked.forEach((i, nth) => {
      if (wasCut[nth] !== true) return;
      this.#reader.at = i;
      for (const reset of this.#reader.resets()) this.#resets.send(reset);
    });
    return isEnd;
  }

  close(): void {
    this.#walk.close();
  }
}

/** Reads one connection of a walk's last step. */
export class ConnectionReader {
  /** Which one. */
  at = 0;
  readonly #walk: MapWalk;
  readonly #keys: DataView;
  readonly #values: DataView;

  constructor(walk: MapWalk) {
    this.#walk = walk;
    const { keys, values } = walk;
    this.#keys = new DataView(keys.buffer, keys.byteOffset, keys.byteLength);
    this.#values = new DataView(values.buffer, values.byteOffset, values.byteLength);
  }

  get key(): Uint8Array {
    return this.#walk.keys.subarray(this.at * TCP_KEY.size, (this.at + 1) * TCP_KEY.size);
  }

  get listener(): number {
    return this.#u32('listener');
  }

  get state(): number {
    return this.#u32('state');
  }

  get hasEnded(): boolean {
    return this.state >= TCP_STATE.over;
  }

  get ref(): number {
    return this.#u32('ref');
  }

  get id(): number {
    return this.#u64('id');
  }

  get lastSeenNs(): number {
    return this.#u64('lastSeenNs');
  }

  /** Both ends have sent their FIN. */
  get isClosing(): boolean {
    return this.#u32('clientFin') !== 0 && this.#u32('backendFin') !== 0;
  }

  get clientIp(): IpAddress {
    return this.#ip(this.key, TCP_KEY.at.client);
  }

  view({
    listener,
    backend,
    nowNs,
  }: {
    readonly listener: string;
    readonly backend: string | undefined;
    readonly nowNs: number;
  }): TcpConnectionView {
    const sinceMs = (ns: number): number => Math.max(0, Math.round((nowNs - ns) / 1e6));
    return {
      id: this.id,
      listener,
      client: formatEndpoint(this.clientIp.words, 0, this.#keyPort('clientPort')),
      backend,
      state: this.#stateName(),
      ageMs: sinceMs(this.#u64('openedNs')),
      idleMs: sinceMs(this.lastSeenNs),
      downstreamBytes: this.#u64('bytesDownstream'),
      upstreamBytes: this.#u64('bytesUpstream'),
      bufferedBytes: 0,
    };
  }

  /** What tells both ends that the connection is no more. */
  resets(): readonly Reset[] {
    const client = new Endpoint(this.clientIp, this.#keyPort('clientPort'));
    const contacted = new Endpoint(this.#ip(this.key, TCP_KEY.at.contacted), this.#keyPort('contactedPort'));
    const value = this.#walk.values.subarray(this.at * TCP_CONNECTION.size);
    const backend = new Endpoint(
      this.#ip(value, TCP_CONNECTION.at.backend),
      this.#values.getUint16(this.#field('backendPort'), true),
    );
    const seen = new Endpoint(
      this.#ip(value, TCP_CONNECTION.at.seen),
      this.#values.getUint16(this.#field('seenPort'), true),
    );
    const [clientNext, backendNext] = [this.#u32('clientNext'), this.#u32('backendNext')];
    return [
      { from: contacted, to: client, sequence: backendNext, acknowledged: clientNext },
      { from: seen, to: backend, sequence: clientNext, acknowledged: backendNext },
    ];
  }

  #stateName(): TcpConnectionView['state'] {
    if (this.state < TCP_STATE.open) return 'connecting';
    if (this.isClosing) return 'closing';
    if (this.#u32('clientFin') !== 0) return 'client-ended';
    return this.#u32('backendFin') !== 0 ? 'backend-ended' : 'established';
  }

  #field(name: keyof typeof TCP_CONNECTION.at): number {
    return this.at * TCP_CONNECTION.size + TCP_CONNECTION.at[name];
  }

  #u32(name: keyof typeof TCP_CONNECTION.at): number {
    return this.#values.getUint32(this.#field(name), true);
  }

  #u64(name: keyof typeof TCP_CONNECTION.at): number {
    return readNs(this.#values, this.#field(name));
  }

  #keyPort(name: 'contactedPort' | 'clientPort'): number {
    return this.#keys.getUint16(this.at * TCP_KEY.size + TCP_KEY.at[name], true);
  }

  #ip(bytes: Uint8Array, at: number): IpAddress {
    return new IpAddress(bytes.subarray(at, at + 16));
  }
}
