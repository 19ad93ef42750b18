/**
 * What may stand between clients and the TCP services of the benchmark: nothing, a relay of ours, HAProxy, nginx. Each
 * route serves every service on an address of its own.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { mkdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { freeTcpPort } from '../free-port.ts';
import { findNginx, untilListening } from '../nginx.ts';
import { tickrelay, type ProcessGroup } from '../process-group.ts';
import { DIRECT, type AbsentPeer, type RouteInfo } from '../results.ts';
import { findHaproxy, haproxyConfig } from './haproxy.ts';
import { nginxService, nginxStreamConfig } from './nginx-stream.ts';

const READY_DEADLINE_MS = 10_000;
const POLL_MS = 20;

export interface TcpRoute {
  readonly info: RouteInfo;
  /** Where clients connect, in the order of the services. */
  readonly targets: readonly Endpoint[];
  /** Whose CPU time is counted, with that of its children; undefined where nothing stands between. */
  readonly pid: number | undefined;
}

export interface TcpRouteOptions {
  readonly group: ProcessGroup;
  /** The services' own addresses. */
  readonly services: readonly Endpoint[];
  /** For configuration files. */
  readonly folder: string;
}

/** In the order of the tables. */
export const TCP_ROUTES: Readonly<Record<string, (options: TcpRouteOptions) => Promise<TcpRoute>>> = {
  [DIRECT]: ({ services }) =>
    Promise.resolve({
      info: { name: DIRECT, kind: 'direct', detail: 'clients connect to the services themselves' },
      targets: services,
      pid: undefined,
    }),
  userspace: (options) => openRelay('userspace', [], options),
  streams: (options) => openRelay('streams', ['--engine', 'dgram'], options),
  kernel: openKernelRelay,
  haproxy: openHaproxy,
  nginx: openNginxStream,
};

/** Opens a route, or says why it can't be had. */
export async function openTcpRoute(name: string, options: TcpRouteOptions): Promise<TcpRoute | AbsentPeer> {
  try {
    return await TCP_ROUTES[name]!(options);
  } catch (error) {
    if (error instanceof RelayError && name !== 'userspace' && name !== 'streams')
      return { name, reason: error.message };
    throw error;
  }
}

/** @throws RelayError TICKRELAY_ERR_LOAD where the kernel engine can't run */
function openKernelRelay(options: TcpRouteOptions): Promise<TcpRoute> {
  const why = whyUnavailable();
  if (why !== undefined) throw new RelayError('TICKRELAY_ERR_LOAD', `engine kernel can't run: ${why}`);
  return openRelay(
    'kernel',
    ['--engine', 'kernel', '--source-address', 'client', '--bpffs', 'none'],
    options,
  );
}

async function openRelay(
  name: string,
  engine: readonly string[],
  { group, services }: TcpRouteOptions,
): Promise<TcpRoute> {
  // Ports are part of the names of the listeners, which must differ.
  const listens = await Promise.all(services.map(freeTcpPort));
  const flags = services.flatMap((service, i) => [
    '--tcp',
    `${listens[i]!.toString()}=${service.toString()}`,
  ]);
  const ending = ['--shutdown-deadline', '1ms', '--log-level', 'warn', '--json'];
  const child = group.start(tickrelay(name, ['relay', ...flags, ...engine, ...ending]));
  await child.event('ready');
  return {
    info: { name, kind: 'engine', detail: ['tickrelay relay --tcp', ...engine].join(' ') },
    targets: listens,
    pid: child.pid,
  };
}

async function openHaproxy({ group, services, folder }: TcpRouteOptions): Promise<TcpRoute> {
  const { program, version } = findHaproxy();
  const targets = await Promise.all(services.map(freeTcpPort));
  const path = join(folder, 'haproxy.cfg');
  writeFileSync(
    path,
    haproxyConfig(services.map((service, i) => ({ listen: targets[i]!, backends: [service] }))),
  );
  const child = group.start({ name: 'haproxy', program, args: ['-db', '-f', path] });
  for (const target of targets) await untilAccepts(target, () => child.exit !== undefined);
  return {
    info: { name: 'haproxy', kind: 'peer', detail: `${version}, mode tcp, nbthread 1, leastconn` },
    targets,
    pid: child.pid,
  };
}

async function openNginxStream({ group, services, folder }: TcpRouteOptions): Promise<TcpRoute> {
  const { program, version, module } = findNginx();
  const targets = await Promise.all(services.map(freeTcpPort));
  const directory = join(folder, 'nginx');
  mkdirSync(directory);
  const servers = services
    .map((service, i) => nginxService(`service_${i}`, targets[i]!, [service]))
    .join('\n');
  const config = join(directory, 'nginx.conf');
  writeFileSync(config, nginxStreamConfig({ directory, module, servers }));
  const child = group.start({ name: 'nginx', program, args: ['-p', directory, '-c', config] });
  await untilListening(child, directory);
  return {
    info: {
      name: 'nginx',
      kind: 'peer',
      detail: `${version}, stream module, worker_processes 1, least_conn`,
    },
    targets,
    pid: child.pid,
  };
}

/** @throws RelayError TICKRELAY_ERR_LOAD when nothing listens there in time */
export async function untilAccepts(target: Endpoint, hasEnded: () => boolean): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE_MS;
  for (;;) {
    const socket = connect({ host: target.ip.toString(), port: target.port });
    const isOpen = await once(socket, 'connect').then(Boolean, () => false);
    socket.on('error', () => undefined).destroy();
    if (isOpen) return;
    if (hasEnded() || performance.now() > deadline) {
      throw new RelayError('TICKRELAY_ERR_LOAD', `nothing listens on ${target.toString()}`);
    }
    await sleep(POLL_MS);
  }
}
