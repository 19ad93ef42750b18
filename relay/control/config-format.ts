/** The effective configuration in the file's form, every default written out and every token hidden. */
import { stringify } from 'yaml';
import type { HealthCheckConfig, ListenerConfig, PoolConfig, RelayConfig } from './config.ts';
import { HIDDEN_TOKEN } from './config-schema.ts';

/** YAML that, but for the tokens, reads back as the same configuration. */
export function formatConfig(config: RelayConfig): string {
  return stringify(describeConfig(config), { lineWidth: 0 });
}

/** The same as plain data, as the admin API answers it. Absent keys are left out by both JSON and YAML. */
export function describeConfig(config: RelayConfig): Readonly<Record<string, unknown>> {
  const { name, engine, workers, coalesceUs, hashSeed, kernel } = config;
  const { listeners, pools, admin, limits, shutdown, log } = config;
  return {
    name,
    engine,
    workers: workers ?? 'auto',
    coalesceUs,
    hashSeed,
    kernel: { ...kernel, relayPorts: `${kernel.relayPorts.first}-${kernel.relayPorts.last}` },
    listeners: listeners.map(describeListener),
    pools: Object.fromEntries(pools.map((pool) => [pool.name, describePool(pool)])),
    ...(admin && { admin: { listen: admin.listen.toString(), ...hidden(admin.token) } }),
    limits: { ...limits, maxUpstreamSockets: limits.maxUpstreamSockets ?? 'auto' },
    shutdown: { delay: formatDuration(shutdown.delayMs), deadline: formatDuration(shutdown.deadlineMs) },
    log,
  };
}

function describeListener(listener: ListenerConfig): unknown {
  const { name, protocol, listen, pool, algorithm, pinGroup, idleTimeoutMs } = listener;
  const shared = {
    name,
    protocol,
    listen: listen.toString(),
    pool,
    algorithm,
    ...(pinGroup === undefined ? {} : { pinGroup }),
    idleTimeout: formatDuration(idleTimeoutMs),
  };
  if (listener.protocol === 'udp') {
    const { pinTimeoutMs, receiveBufferBytes, limits } = listener;
    return { ...shared, pinTimeout: formatDuration(pinTimeoutMs), receiveBufferBytes, limits };
  }
  const { engine, pinTimeoutMs } = listener;
  return {
    ...shared,
    engine,
    ...(pinTimeoutMs === undefined ? {} : { pinTimeout: formatDuration(pinTimeoutMs) }),
    connectTimeout: formatDuration(listener.connectTimeoutMs),
    maxConnections: listener.maxConnections,
    keepAlive: formatDuration(listener.keepAliveMs),
    slowStart: formatDuration(listener.slowStartMs),
    limits: listener.limits,
    queue: { size: listener.queue.size, timeout: formatDuration(listener.queue.timeoutMs) },
    proxyProtocol: {
      accept: listener.proxyProtocol.accept.map(String),
      timeout: formatDuration(listener.proxyProtocol.timeoutMs),
      send: listener.proxyProtocol.send,
    },
  };
}

function describePool({ healthCheck, registration, backends }: PoolConfig): unknown {
  return {
    healthCheck: describeHealthCheck(healthCheck),
    ...(registration && {
      registration: {
        allow: registration.allow.map(String),
        ...hidden(registration.token),
        settle: formatDuration(registration.settleMs),
      },
    }),
    backends: backends.map(({ id, endpoint, weight, maxConnections }) => ({
      ...(id === endpoint.toString() ? {} : { id }),
      address: endpoint.toString(),
      weight,
      maxConnections,
    })),
  };
}

function describeHealthCheck({ intervalMs, timeoutMs, ...check }: HealthCheckConfig): unknown {
  const { type, rise, fall, ...rest } = check;
  const values = Object.entries(rest).flatMap(([key, value]: [string, unknown]) => {
    if (key === 'password' && value !== undefined) return [[key, HIDDEN_TOKEN]];
    if (!(value instanceof Uint8Array)) return value === undefined ? [] : [[key, value]];
    return value.length === 0 ? [] : [[key, Buffer.from(value).toString('hex')]];
  });
  const timing = { interval: formatDuration(intervalMs), timeout: formatDuration(timeoutMs), rise, fall };
  return { type, ...timing, ...(Object.fromEntries(values) as object) };
}

function hidden(token: string | undefined): { token?: string } {
  return token === undefined ? {} : { token: HIDDEN_TOKEN };
}

function formatDuration(durationMs: number): string {
  return durationMs % 1_000 === 0 && durationMs > 0 ? `${durationMs / 1_000}s` : `${durationMs}ms`;
}
