/** What the tests of upstream sockets stand on. */
import { Endpoint } from '../../../net/address.ts';
import { BackendPool } from '../../../relay/core/backend-pool.ts';
import type { BackendEntry } from '../../../relay/core/pool-snapshot.ts';
import { UpstreamSockets } from '../../../relay/engines/userspace/upstream-sockets.ts';

export const QUARANTINE_MS = 1_000;
const EMPTY = new BackendPool('empty').snapshot();

/** Upstream sockets over sockets that only note what happens to them; each has a port of its own. */
export function upstreamRig(
  maxSockets = 100,
  ids: readonly string[] = ['a', 'b'],
  reserve = { least: 0, most: 0 },
) {
  const opened: { local: string; port: number; closed: boolean; tag: number }[] = [];
  const failures: unknown[] = [];
  const refuse: { error: Error | undefined; attempts: number } = { error: undefined, attempts: 0 };
  const pool = new BackendPool('game');
  const sockets = new UpstreamSockets({
    maxSockets,
    hasRoom: () => true,
    makeRoom: () => false,
    reserve,
    quarantineMs: QUARANTINE_MS,
    open: (local, tag) => {
      refuse.attempts++;
      if (refuse.error !== undefined) throw refuse.error;
      const port = 40_000 + opened.length;
      const entry = { local: local.toString(), port, closed: false, tag };
      opened.push(entry);
      return {
        local: new Endpoint(local.ip, port),
        send: () => 1,
        close: () => {
          entry.closed = true;
          return Promise.resolve();
        },
      };
    },
    onOpenFailed: (error) => failures.push(error),
  });
  const add = (id: string, endpoint = `10.0.0.${id.charCodeAt(0)}:7777`): void =>
    pool.add({ id, endpoint: Endpoint.parse(endpoint), weight: 1 });
  const publish = (nowMs: number): void => {
    // The tables of a whole snapshot take milliseconds, and nobody here asks them.
    const backends: BackendEntry[] = [];
    for (const backend of pool.list()) backends[backend.slot] = backend;
    sockets.publish({ ...EMPTY, backends }, nowMs);
  };
  const slot = (id: string): number => pool.get(id)!.slot;
  const port = (number: number): number => sockets.sockets[number]!.local.port;
  for (const id of ids) add(id);
  publish(0);
  return { sockets, pool, opened, failures, refuse, add, publish, slot, port };
}
