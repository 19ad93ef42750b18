/** Snapshots on their way to another thread: messages are copied, so endpoints travel as text, and functions not at all. */
import { Endpoint } from '../../net/address.ts';
import { EndpointIndex } from './endpoint-index.ts';
import type { BackendEntry, PoolSnapshot } from './pool-snapshot.ts';

type PlainEntry = Omit<BackendEntry, 'endpoint'> & { readonly endpoint: string };
export type PlainSnapshot = Omit<PoolSnapshot, 'backends' | 'slotAt' | 'words' | 'ports'> & {
  readonly backends: readonly (PlainEntry | undefined)[];
};

export function toPlainSnapshot(snapshot: PoolSnapshot): PlainSnapshot {
  const { pool, epoch, usable, ready, weights, maglev, rotation } = snapshot;
  const backends = snapshot.backends.map((entry) => {
    if (entry === undefined) return undefined;
    const { slot, ref, id, weight, maxConnections, state, endpoint } = entry;
    return { slot, ref, id, weight, maxConnections, state, endpoint: endpoint.toString() };
  });
  return { pool, epoch, usable, ready, weights, maglev, rotation, backends };
}

export function fromPlainSnapshot(plain: PlainSnapshot): PoolSnapshot {
  const backends = plain.backends.map(
    (entry) => entry && { ...entry, endpoint: Endpoint.parse(entry.endpoint) },
  );
  const { words, ports, slotAt } = new EndpointIndex(backends.filter((entry) => entry !== undefined));
  return { ...plain, backends, words, ports, slotAt };
}
