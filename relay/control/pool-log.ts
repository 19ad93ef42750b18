/** Logs under a pool's name. No child logger: a child would keep its level when a reload changes that of the relay. */
import type { Logger } from 'pino';

export type PoolLog = (
  level: 'info' | 'warn' | 'error',
  fields: Readonly<Record<string, unknown>>,
  message: string,
) => void;

export function poolLog(logger: Logger, pool: string): PoolLog {
  return (level, fields, message) => logger[level]({ pool, ...fields }, message);
}
