/** Live sessions and connections together, by pool and backend id: what a drain waits for. */
import type { TcpListenerView, UdpListenerView } from './relay-view.ts';

export function sessionsOf(
  udp: readonly UdpListenerView[],
  tcp: readonly TcpListenerView[],
): ReadonlyMap<string, ReadonlyMap<string, number>> {
  const byPool = new Map<string, Map<string, number>>();
  // Listeners of one pool report the same sessions, so the last one speaks for all.
  for (const { pool, sessionsByBackend } of udp) byPool.set(pool, new Map(sessionsByBackend));
  for (const { pool, connectionsByBackend } of tcp) {
    const byBackend = byPool.get(pool) ?? new Map<string, number>();
    byPool.set(pool, byBackend);
    for (const [backend, count] of connectionsByBackend) {
      byBackend.set(backend, (byBackend.get(backend) ?? 0) + count);
    }
  }
  return byPool;
}
