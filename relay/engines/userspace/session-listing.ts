/**
 * Lists sessions for the admin API: a walk over the table in slices, between which datagrams have their turn. Sessions that
 * open, end or move meanwhile may be missing or listed twice.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { formatEndpoint, IpAddress } from '../../../net/address.ts';
import type { Router } from '../../core/router.ts';
import type { SessionListing, SessionQuery, SessionView } from '../engine.ts';

/** Places walked before datagrams have their turn. */
const PLACES_PER_SLICE = 4_096;

/** @param upstreamPort gives the local port of a session's upstream socket */
export async function listSessions(
  router: Router,
  query: SessionQuery,
  options: { nowMs: number; upstreamPort: (session: number) => number },
): Promise<SessionListing> {
  const { sessions } = router;
  const clientIp = query.clientIp === undefined ? undefined : IpAddress.parse(query.clientIp);
  const listed: SessionView[] = [];
  let total = 0;
  for (let id = 0; id < sessions.records.places; id++) {
    if (id % PLACES_PER_SLICE === PLACES_PER_SLICE - 1) await nextTurn();
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
      ageMs: Math.max(0, Math.round(options.nowMs - sessions.openedMs(id))),
      idleMs: Math.round(options.nowMs - sessions.lastSeenMs(id)),
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
