/** What the admin API and the metrics say of a UDP listener in the kernel. */
import type { BackendFigures } from '../../core/backend-figures.ts';
import type { ListenerStatus } from '../engine.ts';
import type { KernelListener, ListenerTable } from './listener-table.ts';

export function statusOf(listeners: ListenerTable, listener: KernelListener): ListenerStatus {
  const { spec, local, pool } = listener;
  const counters = listeners.counters(listener);
  const sessionsByBackend = new Map<string, number>();
  const figuresByBackend = new Map<string, BackendFigures>();
  for (const { slot, entry, liveSessions } of pool.backends()) {
    sessionsByBackend.set(entry.id, liveSessions);
    figuresByBackend.set(entry.id, pool.figures(slot));
  }
  return {
    name: spec.name,
    local,
    pool: spec.pool,
    counts: counters.dump(),
    liveSessions: counters.liveSessions,
    sessionsByBackend,
    upstreamSockets: 0,
    // Datagrams pass before there is a buffer.
    receiveBuffer: { askedBytes: spec.receiveBufferBytes, grantedBytes: undefined },
    figuresByBackend,
  };
}

/** The sessions ended with the maps. */
export function withoutSessions(status: ListenerStatus): ListenerStatus {
  const sessionsByBackend = new Map(Array.from(status.sessionsByBackend.keys(), (id) => [id, 0]));
  return { ...status, liveSessions: 0, sessionsByBackend };
}
