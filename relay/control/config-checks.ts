/** What no section of the configuration can see alone: references, names and addresses taken twice, loops; warnings. */
import type { Cidr, Endpoint } from '../../net/address.ts';
import { DEFAULT_IDLE_TIMEOUT_MS } from '../core/limits.ts';
import type { AdminConfig, ListenerConfig, PoolConfig, RelayConfig } from './config.ts';
import { suggestion, type ConfigPath, type Problems } from './config-problems.ts';
import { NAME_PATTERN, NAME_RULE } from './config-schema.ts';
import { checkPinGroups, pinGroupWarnings } from './pin-groups.ts';
import { tcpEngineWarnings } from './tcp-needs.ts';
import { covers, localNetwork, unusableHere } from './target-address.ts';

/** The sections that could be read; `undefined` stands for one with problems of its own. */
interface Sections {
  readonly listeners: readonly (ListenerConfig | undefined)[];
  readonly pools: readonly (PoolConfig | undefined)[];
  readonly poolNames: readonly string[];
  readonly admin: AdminConfig | undefined;
}

export function checkConfig(sections: Sections, problems: Problems): void {
  for (const name of sections.poolNames) {
    if (!NAME_PATTERN.test(name)) problems.add(['pools', name], `should be ${NAME_RULE}`);
  }
  checkListeners(sections, problems);
  for (const pool of sections.pools) if (pool !== undefined) checkBackends(pool, problems);
  checkLoops(sections, problems);
  checkPinGroups(sections.listeners, sections.pools, problems);
}

function checkListeners({ listeners, poolNames, admin }: Sections, problems: Problems): void {
  const bound: { readonly protocol: string; readonly listen: Endpoint; readonly path: ConfigPath }[] = [];
  if (admin !== undefined) bound.push({ protocol: 'tcp', listen: admin.listen, path: ['admin', 'listen'] });
  const names = new Set<string>();

  listeners.forEach((listener, i) => {
    if (listener === undefined) return;
    const { name, pool, protocol, listen } = listener;
    if (names.has(name)) problems.add(['listeners', i, 'name'], `"${name}" is the name of another listener`);
    names.add(name);
    if (!poolNames.includes(pool)) {
      const hint = suggestion(pool, poolNames) || `; the pools are ${poolNames.join(', ') || '(none)'}`;
      problems.add(['listeners', i, 'pool'], `"${pool}" is not one of the pools${hint}`);
    }
    const path = ['listeners', i, 'listen'];
    if (bound.some((other) => other.protocol === protocol && overlap(other.listen, listen))) {
      problems.add(
        path,
        `"${listen.toString()}" is already taken by another ${protocol} listener or the admin address`,
      );
    }
    bound.push({ protocol, listen, path });
  });
}

function overlap(a: Endpoint, b: Endpoint): boolean {
  if (a.port === 0 || a.port !== b.port) return false;
  const wild = (one: Endpoint, other: Endpoint): boolean =>
    one.ip.range === 'unspecified' && (!one.ip.isV4 || other.ip.isV4);
  return a.ip.equals(b.ip) || wild(a, b) || wild(b, a);
}

function checkBackends({ name, backends }: PoolConfig, problems: Problems): void {
  const ids = new Set<string>();
  const addresses = new Set<string>();
  const local = localNetwork();
  backends.forEach(({ id, endpoint }, i) => {
    const address = endpoint.toString();
    const reason = unusableHere(endpoint, local);
    if (reason !== undefined) {
      problems.add(['pools', name, 'backends', i, 'address'], `"${address}" ${reason}`);
    } else if (addresses.has(address)) {
      problems.add(['pools', name, 'backends', i], `"${address}" is already a backend of this pool`);
    } else if (ids.has(id)) {
      problems.add(['pools', name, 'backends', i, 'id'], `"${id}" is the id of another backend of this pool`);
    }
    ids.add(id);
    addresses.add(address);
  });
}

/** A backend of a listener's pool that is a listener of the same protocol would get its own traffic back. */
function checkLoops({ listeners, pools }: Sections, problems: Problems): void {
  const local = localNetwork();
  const present = listeners.filter((listener) => listener !== undefined);
  for (const pool of pools) {
    const protocols = new Set(
      present.filter((user) => user.pool === pool?.name).map((user) => user.protocol),
    );
    pool?.backends.forEach(({ endpoint }, i) => {
      const own = present.find((one) => protocols.has(one.protocol) && covers(one.listen, endpoint, local));
      if (own === undefined) return;
      const text = `"${endpoint.toString()}" is the relay's own listener "${own.name}"; it would send to itself`;
      problems.add(['pools', pool.name, 'backends', i], text);
    });
  }
}

/**
 * A listener's port that is a relay port, too: replies that come to it would be taken for new players. Where the engine may be the
 * kernel's, and backends see the relay.
 */
export function checkRelayPorts(
  { engine, kernel, listeners }: Pick<RelayConfig, 'engine' | 'kernel'> & Pick<Sections, 'listeners'>,
  problems: Problems,
): void {
  if (kernel.sourceAddress !== 'relay' || (engine !== 'kernel' && engine !== 'auto')) return;
  const { first, last } = kernel.relayPorts;
  listeners.forEach((listener, i) => {
    if (listener === undefined || (listener.protocol === 'tcp' && listener.engine === 'userspace')) return;
    const { port } = listener.listen;
    if (port < first || port > last) return;
    problems.add(
      ['listeners', i, 'listen'],
      `port ${port} is one of kernel.relayPorts, ${first}-${last}, which the relay speaks to backends from; give the listener another port, or kernel.relayPorts a range without it`,
    );
  });
}

/** Whether the block is all of IPv4, or all there is. */
function isEveryone({ base, prefixBits }: Cidr): boolean {
  return prefixBits === 0 || (base.isV4 && prefixBits === 96);
}

/** What works, but is probably not meant. */
export function configWarnings({ engine, kernel, listeners, pools, admin }: RelayConfig): string[] {
  const warnings: string[] = [];
  listeners.forEach((listener, i) => {
    if (listener.protocol === 'udp' && listener.idleTimeoutMs < DEFAULT_IDLE_TIMEOUT_MS) {
      warnings.push(
        `listeners[${i}].idleTimeout: ${listener.idleTimeoutMs}ms is below the 120s of RFC 4787 REQ-5; a player who is silent for so long loses the session`,
      );
    }
    if (listener.protocol === 'tcp' && listener.proxyProtocol.accept.some(isEveryone)) {
      warnings.push(
        `listeners[${i}].proxyProtocol.accept: trusts every address, so whoever connects may say to be another client; name the proxies`,
      );
    }
  });
  warnings.push(...pinGroupWarnings(listeners, pools));
  warnings.push(...tcpEngineWarnings({ engine, kernel, listeners, pools }));
  if (admin !== undefined && admin.token === undefined && admin.listen.ip.range !== 'loopback') {
    warnings.push(
      `admin.token: is missing, and "${admin.listen.toString()}" is no loopback address; whoever reaches it can add backends and change the configuration`,
    );
  }
  for (const { name, backends, registration, healthCheck } of pools) {
    if (backends.length > 0 && healthCheck.type === 'none') {
      warnings.push(
        `pools.${name}.healthCheck: is none, so a backend that dies keeps getting players; give healthCheck`,
      );
    }
    if (registration === undefined && backends.length === 0) {
      warnings.push(
        `pools.${name}: has no backends and takes no registrations; its clients will be turned away`,
      );
    }
    if (!listeners.some(({ pool }) => pool === name)) warnings.push(`pools.${name}: no listener uses it`);
    if (registration !== undefined && admin === undefined) {
      warnings.push(`pools.${name}.registration: there is no admin address to register at; set admin.listen`);
    }
  }
  return warnings;
}
