/** A live connection as the admin API lists it. */

export type TcpConnectionState =
  /** A trusted proxy is to say who the client is. */
  | 'proxy-header'
  /** Waits for a limit. */
  | 'queued'
  | 'connecting'
  | 'established'
  /** The client sent its FIN; the backend may go on. */
  | 'client-ended'
  /** The backend sent its FIN; the client may go on. */
  | 'backend-ended'
  /** Both ended or the connection was cut; the last bytes are on their way, or the descriptors are being closed. */
  | 'closing';

/** One live connection, as the admin API lists it. */
export interface TcpConnectionView {
  readonly id: number;
  readonly listener: string;
  readonly client: string;
  /** Id; undefined until one is chosen. */
  readonly backend: string | undefined;
  readonly state: TcpConnectionState;
  readonly ageMs: number;
  /** Time since a byte last moved, in either direction. */
  readonly idleMs: number;
  /** Bytes read from the client. */
  readonly downstreamBytes: number;
  /** Bytes read from the backend. */
  readonly upstreamBytes: number;
  /** Bytes read and not yet taken by the system of the other side, both directions together. */
  readonly bufferedBytes: number;
}
