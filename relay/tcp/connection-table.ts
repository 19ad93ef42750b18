/**
 * Every live connection of an engine, by id. They are tended by a sweep that visits a bounded number at each step
 * and goes on where the last step stopped: no timer for each connection, and no step that holds up the event loop.
 */
import { IpAddress } from '../../net/address.ts';
import type { TcpConnection } from './tcp-connection.ts';
import type { TcpConnectionView } from './tcp-connection-view.ts';

export interface TcpConnectionQuery {
  /** At most this many; the listing says whether there were more. */
  readonly limit: number;
  readonly listener?: string;
  /** Backend id. */
  readonly backend?: string;
  /** Client IP in text form. */
  readonly clientIp?: string;
}

export interface TcpConnectionListing {
  readonly connections: readonly TcpConnectionView[];
  /** Connections that match the query. */
  readonly total: number;
  readonly truncated: boolean;
}

export class ConnectionTable {
  readonly #byId = new Map<number, TcpConnection>();
  /** A Map's iterator stays valid while entries come and go. */
  #cursor = this.#byId.values();

  get size(): number {
    return this.#byId.size;
  }

  add(connection: TcpConnection): void {
    this.#byId.set(connection.id, connection);
  }

  remove(connection: TcpConnection): void {
    this.#byId.delete(connection.id);
  }

  get(id: number): TcpConnection | undefined {
    return this.#byId.get(id);
  }

  values(): Iterable<TcpConnection> {
    return this.#byId.values();
  }

  /** Tends the next `budget` connections. */
  sweep(nowMs: number, budget: number): void {
    for (let visited = 0; visited < budget; visited++) {
      const next = this.#cursor.next();
      if (next.done === true) {
        this.#cursor = this.#byId.values();
        return;
      }
      next.value.tend(nowMs);
    }
  }

  /** @throws RelayError TICKRELAY_ERR_ADDRESS when `clientIp` is no address. */
  list(query: TcpConnectionQuery, nowMs: number): TcpConnectionListing {
    const clientIp = query.clientIp === undefined ? undefined : IpAddress.parse(query.clientIp);
    const connections: TcpConnectionView[] = [];
    let total = 0;
    for (const connection of this.#byId.values()) {
      if (query.listener !== undefined && connection.listener !== query.listener) continue;
      if (query.backend !== undefined && connection.backend?.id !== query.backend) continue;
      if (clientIp !== undefined && !connection.client.ip.equals(clientIp)) continue;
      if (total++ < query.limit) connections.push(connection.view(nowMs));
    }
    return { connections, total, truncated: total > connections.length };
  }
}
