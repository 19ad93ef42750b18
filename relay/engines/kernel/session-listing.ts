/**
 * Lists sessions for the admin API: a walk over the map in slices, between which the event loop has its turn. Sessions that
 * open or end meanwhile may be missing.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { formatEndpoint, IpAddress } from '../../../net/address.ts';
import type { BackendEntry } from '../../core/pool-snapshot.ts';
import type { SessionListing, SessionQuery, SessionView } from '../engine.ts';
import { type BpfMap, MapWalk } from './bpf-map.ts';
import type { Bpf } from './loader.ts';
import { INTER_ARRIVAL_BUCKETS, SESSION, SESSION_KEY } from './records.ts';
import { readNs } from './sweeper.ts';

/** Sessions of one system call. */
const SLICE = 1_024;

export interface ListingOptions {
  readonly nowNs: number;
  /** The name of the listener with this index and the backend that its sessions' reference means; undefined where none is. */
  readonly listener: (
    index: number,
  ) => { readonly name: string; readonly backendOf: (ref: number) => BackendEntry | undefined } | undefined;
}

export async function listSessions(
  { bpf, sessions }: { readonly bpf: Bpf; readonly sessions: BpfMap },
  query: SessionQuery,
  options: ListingOptions,
): Promise<SessionListing> {
  const clientIp = query.clientIp === undefined ? undefined : IpAddress.parse(query.clientIp);
  const walk = new MapWalk(bpf, sessions, SLICE);
  const reader = new SessionReader(walk);
  const listed: SessionView[] = [];
  let total = 0;
  try {
    for (let isEnd = false; !isEnd;) {
      const step = walk.step();
      isEnd = step.isEnd;
      for (let i = 0; i < step.count; i++) {
        if (clientIp !== undefined && !reader.isOf(i, clientIp)) continue;
        const listener = options.listener(reader.listener(i));
        if (listener === undefined) continue;
        if (query.listener !== undefined && listener.name !== query.listener) continue;
        const backend = listener.backendOf(reader.backendRef(i));
        if (query.backend !== undefined && backend?.id !== query.backend) continue;
        total++;
        if (listed.length < query.limit)
          listed.push(
            reader.view(i, { listener: listener.name, backend: backend?.id, nowNs: options.nowNs }),
          );
      }
      await nextTurn();
    }
  } finally {
    walk.close();
  }
  return { sessions: listed, total, truncated: total > listed.length };
}

/** Reads the elements of a walk's last step. */
class SessionReader {
  readonly #keys: DataView;
  readonly #values: DataView;
  readonly #words: Uint32Array;

  constructor({ keys, values }: MapWalk) {
    this.#keys = new DataView(keys.buffer, keys.byteOffset, keys.byteLength);
    this.#values = new DataView(values.buffer, values.byteOffset, values.byteLength);
    this.#words = new Uint32Array(keys.buffer, keys.byteOffset, keys.byteLength >> 2);
  }

  isOf(i: number, ip: IpAddress): boolean {
    const at = this.#addressAt(i);
    return ip.words.every((word, j) => this.#words[at + j] === word);
  }

  listener(i: number): number {
    return this.#keys.getUint16(i * SESSION_KEY.size + SESSION_KEY.at.listener, true);
  }

  backendRef(i: number): number {
    return this.#values.getUint32(i * SESSION.size + SESSION.at.ref, true);
  }

  view(
    i: number,
    { listener, backend, nowNs }: { listener: string; backend: string | undefined; nowNs: number },
  ): SessionView {
    const at = i * SESSION.size;
    const number = (field: number): number => readNs(this.#values, at + field);
    const sinceMs = (field: number): number => Math.max(0, Math.round((nowNs - number(field)) / 1e6));
    const port = this.#keys.getUint16(i * SESSION_KEY.size + SESSION_KEY.at.port, true);
    const datagrams = number(SESSION.at.datagramsDownstream);
    return {
      listener,
      client: formatEndpoint(this.#words, this.#addressAt(i), port),
      backend,
      upstreamPort: this.#values.getUint16(at + SESSION.at.seenPort, true),
      ageMs: sinceMs(SESSION.at.openedNs),
      idleMs: sinceMs(SESSION.at.lastSeenNs),
      halfOpen: datagrams <= 1,
      downstreamDatagrams: datagrams,
      downstreamBytes: number(SESSION.at.bytesDownstream),
      upstreamDatagrams: number(SESSION.at.datagramsUpstream),
      upstreamBytes: number(SESSION.at.bytesUpstream),
      pacing: {
        gaps: this.#values.getUint32(at + SESSION.at.gaps, true),
        intervals: Array.from({ length: INTER_ARRIVAL_BUCKETS }, (_, bucket) =>
          this.#values.getUint32(at + SESSION.at.interArrival + bucket * 4, true),
        ),
      },
    };
  }

  /** Index of the client's address in `#words`. */
  #addressAt(i: number): number {
    return (i * SESSION_KEY.size + SESSION_KEY.at.address) >> 2;
  }
}
