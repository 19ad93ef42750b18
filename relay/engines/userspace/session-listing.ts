/** Lists sessions for the admin API: a walk over the table, off the packet path. */
import { formatEndpoint, IpAddress } from '../../../net/address.ts';
import type { Router } from '../../core/router.ts';
import type { SessionListing, SessionQuery, SessionView } from '../engine.ts';

/** @param upstreamPort gives the local port of a session's upstream socket */
export function listSessions(
  router: Router,
  query: SessionQuery,
  options: { nowMs: number; upstreamPort: (session: number) => number },
): SessionListing {
  const { sessions } = router;
  const clientIp = query.clientIp === undefined ? undefined : IpAddress.parse(query.clientIp);
  const listed: SessionView[] = [];
  let total = 0;
  for (let id = 0; id < sessions.records.places; id++) {
    if (!sessions.records.isLive(id)) continue;
    if (clientIp !== undefined && !hasAddress(sessions.records.words, sessions.addressAt(id), clientIp))
      continue;
    const listener = router.listenerOf(id);
    if (query.listener !== undefined && listener.name !== query.listener) continue;
    const backend = listener.pool.backendOf(sessions.backendRef(id));
    if (query.backend !== undefined && backend?.id !== query.backend) continue;
    total++;
    if (listed.length >= query.limit) continue;
    listed.push({
      listener: listener.name,
      client: formatEndpoint(sessions.records.words, sessions.addressAt(id), sessions.clientPort(id)),
      backend: backend?.id,
      upstreamPort: options.upstreamPort(id),
      ageMs: Math.max(0, options.nowMs - sessions.openedMs(id)),
      idleMs: options.nowMs - sessions.lastSeenMs(id),
      halfOpen: sessions.isHalfOpen(id),
      downstreamDatagrams: sessions.datagramsDownstream(id),
      downstreamBytes: sessions.bytesDownstream(id),
      upstreamDatagrams: sessions.datagramsUpstream(id),
      upstreamBytes: sessions.bytesUpstream(id),
    });
  }
  return { sessions: listed, total, truncated: total > listed.length };
}

function hasAddress(words: Uint32Array, at: number, ip: IpAddress): boolean {
  return ip.words.every((word, i) => words[at + i] === word);
}
