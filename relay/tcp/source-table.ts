/**
 * What a listener knows of each client IP: how many connections it has, how many wait, and how fast it may open more.
 * An entry goes when its client has no connection and its tokens are all back, so that there are at most as many as
 * live connections and those accepted within a second.
 */
import type { IpAddress } from '../../net/address.ts';
import { TokenBucket } from '../core/token-bucket.ts';

/** A token bucket holds one second's worth, so that after one second it is full whatever happened before. */
const BUCKET_MS = 1_000;

/** The number that an IPv4 address is, or an IPv6 address as text. */
type SourceKey = number | string;

export class Source {
  readonly key: SourceKey;
  /** Connections let in. */
  admitted = 0;
  /** Connections that wait for a limit. */
  waiting = 0;
  /** Made when a rate is first limited. */
  #bucket: TokenBucket | undefined;
  #tokenAtMs = Number.NEGATIVE_INFINITY;

  constructor(key: SourceKey) {
    this.key = key;
  }

  /** @returns whether one more connection may come at `ratePerSecond`; 0 means no bound */
  takeToken(nowMs: number, ratePerSecond: number): boolean {
    if (ratePerSecond === 0) return true;
    this.#bucket ??= new TokenBucket(ratePerSecond);
    this.#bucket.changeRate(ratePerSecond, nowMs);
    this.#tokenAtMs = Math.max(this.#tokenAtMs, nowMs);
    return this.#bucket.take(nowMs);
  }

  /** Whether forgetting it makes no difference. */
  isForgettable(nowMs: number): boolean {
    return this.admitted === 0 && this.waiting === 0 && nowMs - this.#tokenAtMs >= BUCKET_MS;
  }
}

export class SourceTable {
  readonly #byIp = new Map<SourceKey, Source>();

  get size(): number {
    return this.#byIp.size;
  }

  of(ip: IpAddress): Source {
    const key = ip.isV4 ? ip.words[3]! : ip.toString();
    let source = this.#byIp.get(key);
    if (source === undefined) this.#byIp.set(key, (source = new Source(key)));
    return source;
  }

  /** One of the source's connections ended or was refused. */
  forget(source: Source, nowMs: number): void {
    if (source.isForgettable(nowMs)) this.#byIp.delete(source.key);
  }

  /** Forgets the clients whose tokens have come back. */
  sweep(nowMs: number): void {
    for (const source of this.#byIp.values()) this.forget(source, nowMs);
  }
}
