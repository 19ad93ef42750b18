/**
 * The health checks that ask a backend. A new one is one file beside this, one line in ACTIVE_CHECKS, and its keys in
 * config-schema.ts. The type `heartbeat` asks nobody: backends report by themselves (pool-health.ts).
 */
import type { Endpoint } from '../../../net/address.ts';
import type { HealthCheckConfig } from '../config.ts';
import { httpCheck } from './http-check.ts';
import { postgresCheck } from './postgres-check.ts';
import { tcpCheck } from './tcp-check.ts';
import { udpCheck } from './udp-check.ts';

/**
 * Asks one backend once, and leaves nothing open.
 *
 * @param signal aborts when the time is up; the check then settles at once
 * @returns why the backend failed, or undefined when it is well. An operating system's error may also be thrown.
 */
export type HealthCheck = (endpoint: Endpoint, signal: AbortSignal) => Promise<string | undefined>;

export type ActiveCheckType = 'tcp' | 'http' | 'udp' | 'postgres';
export type ActiveCheckConfig = Extract<HealthCheckConfig, { readonly type: ActiveCheckType }>;

const ACTIVE_CHECKS: {
  readonly [T in ActiveCheckType]: (config: Extract<ActiveCheckConfig, { readonly type: T }>) => HealthCheck;
} = {
  tcp: tcpCheck,
  http: httpCheck,
  udp: udpCheck,
  postgres: postgresCheck,
};

/** The check that a pool's configuration asks for; none for `none` and `heartbeat`. */
export function activeCheck(config: HealthCheckConfig): HealthCheck | undefined {
  if (config.type === 'none' || config.type === 'heartbeat') return undefined;
  const create = ACTIVE_CHECKS[config.type] as (config: ActiveCheckConfig) => HealthCheck;
  return create(config);
}
