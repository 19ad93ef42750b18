/**
 * Why a connection ended or was never let in. Every accepted connection is either live or counted under exactly one of
 * these; the names are the `reason` label of `tickrelay_tcp_connections_closed_total` and are documented in docs/tcp.md.
 */
export const CLOSE_REASONS = [
  /** Both sides sent their FIN, and every byte was delivered. */
  'completed',
  /** The client reset the connection, or keep-alive found it gone. */
  'client-reset',
  /** The backend reset the connection, or keep-alive found it gone. */
  'backend-reset',
  /** No byte moved either way for the idle timeout. */
  'idle-timeout',
  /** The backend failed its health check, was disabled, or left the pool. */
  'backend-unusable',
  /** An operator closed this connection. */
  'operator',
  /** The listener was taken out of the configuration. */
  'listener-removed',
  /** The relay ended. */
  'shutdown',
  /** The thread that carried the connection ended by an error of its own, and was replaced. */
  'worker-failure',
  /** The trusted proxy sent no PROXY header, or a malformed one. */
  'bad-proxy-header',
  /** The trusted proxy's PROXY header was not complete in time. */
  'proxy-header-timeout',
  /** Refused: no backend of the pool is ready. */
  'no-backend',
  /** Refused: the listener has its cap of connections. */
  'connection-limit',
  /** Refused: the client IP has its cap of connections. */
  'source-connection-limit',
  /** Refused: the client IP opens connections too fast. */
  'source-rate-limit',
  /** Refused: every ready backend has its cap of connections. */
  'backend-connection-limit',
  /** Waited for one of these limits for as long as the queue allows. */
  'queue-timeout',
  /** No backend could be reached: refused, unroutable, or no descriptor or port left for the attempt. */
  'connect-failed',
  /** No backend answered within the connect timeout. */
  'connect-timeout',
] as const;

export type CloseReason = (typeof CLOSE_REASONS)[number];
