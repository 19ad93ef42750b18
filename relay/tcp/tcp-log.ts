/** What the TCP side needs of a logger: pino's, or one that sends its lines to another thread. */
export interface TcpLog {
  info(fields: Readonly<Record<string, unknown>>, text: string): void;
  warn(fields: Readonly<Record<string, unknown>>, text: string): void;
}
