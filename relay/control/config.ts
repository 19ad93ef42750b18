/**
 * The configuration as the relay uses it: checked, complete, immutable, in the relay's own units. One shape for the
 * YAML file and for the flags of a run without a file.
 *
 * Sequence: text -> YAML document with `${ENV}` filled in (config-document.ts) -> sections against their schemas
 * (config-schema.ts) -> what no section can see alone (config-checks.ts). Every step adds to one list of problems, so
 * that an operator sees them all at once.
 */
import { readFile } from 'node:fs/promises';
import type { Cidr, Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { Algorithm } from '../core/select.ts';
import { checkConfig, checkRelayPorts, configWarnings } from './config-checks.ts';
import { ConfigDocument } from './config-document.ts';
import { Problems } from './config-problems.ts';
import { checkKernelRoom } from './kernel-room.ts';
import { listenerSchema, poolSchema, rootSchema } from './config-schema.ts';
import { checkTcpEngines } from './tcp-needs.ts';

export type EngineChoice = 'auto' | 'dgram' | 'mmsg' | 'kernel';
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';

export interface UdpListenerConfig {
  readonly protocol: 'udp';
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  readonly algorithm: Algorithm;
  readonly idleTimeoutMs: number;
  /** Name of the group whose listeners share their pins. */
  readonly pinGroup?: string | undefined;
  readonly pinTimeoutMs: number;
  readonly receiveBufferBytes: number;
  /** 0 means no bound. Rates are new sessions a second. */
  readonly limits: {
    readonly sessionsPerSource: number;
    readonly sessionRatePerSource: number;
    readonly sessionRate: number;
    readonly amplification: number;
  };
}

export interface TcpListenerConfig {
  readonly protocol: 'tcp';
  readonly name: string;
  readonly listen: Endpoint;
  readonly pool: string;
  /** Who carries its connections; `auto`: the kernel where it can. */
  readonly engine: 'auto' | 'userspace' | 'kernel';
  readonly algorithm: Algorithm;
  readonly pinGroup?: string | undefined;
  /** Only with a group; undefined: as long as its other listeners say. */
  readonly pinTimeoutMs?: number | undefined;
  readonly idleTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly maxConnections: number;
  /** Idle time before the first keep-alive probe; 0 sends none. */
  readonly keepAliveMs: number;
  /** How long a backend takes from coming up to its whole share of new connections. */
  readonly slowStartMs: number;
  /** Of one client IP; 0 means no bound. The rate is new connections a second. */
  readonly limits: { readonly connectionsPerSource: number; readonly connectionRatePerSource: number };
  /** Connections that may wait for a limit, and how long. */
  readonly queue: { readonly size: number; readonly timeoutMs: number };
  readonly proxyProtocol: {
    /** Proxies that must begin with a PROXY header. */
    readonly accept: readonly Cidr[];
    readonly timeoutMs: number;
    /** The header that backends get. */
    readonly send: 'none' | 'v1' | 'v2';
  };
}

export type ListenerConfig = UdpListenerConfig | TcpListenerConfig;

interface HealthCheckTiming {
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** Successes in a row that make a backend healthy again, and failures in a row that make it unhealthy. */
  readonly rise: number;
  readonly fall: number;
  /** TCP: connections in a row that did not open and so make a backend unhealthy; 0: they say nothing. */
  readonly connectFailures: number;
}

export type HealthCheckConfig = HealthCheckTiming &
  (
    | { readonly type: 'none' }
    | { readonly type: 'heartbeat' }
    | { readonly type: 'tcp'; readonly port: number | undefined }
    | {
        readonly type: 'http';
        readonly port: number | undefined;
        readonly path: string;
        readonly expectStatus: number;
      }
    | {
        readonly type: 'udp';
        readonly port: number | undefined;
        readonly payload: Uint8Array;
        /** Bytes that the answer must begin with; empty: any answer will do. */
        readonly expect: Uint8Array;
      }
    | {
        readonly type: 'postgres';
        readonly port: number | undefined;
        /** Required for a role. */
        readonly user: string | undefined;
        readonly password: string | undefined;
        readonly database: string;
        readonly role: 'any' | 'primary' | 'replica';
      }
  );

export interface RegistrationConfig {
  /** Backend addresses that may register. */
  readonly allow: readonly Cidr[];
  readonly token: string | undefined;
  /** After the pool's start: how long it waits for the servers that register before it takes players; 0 does not wait. */
  readonly settleMs: number;
}

export interface BackendConfig {
  readonly id: string;
  readonly endpoint: Endpoint;
  readonly weight: number;
  /** TCP connections at once; 0: no bound. */
  readonly maxConnections: number;
}

export interface PoolConfig {
  readonly name: string;
  readonly healthCheck: HealthCheckConfig;
  /** Absent: backends come from the configuration only. */
  readonly registration: RegistrationConfig | undefined;
  readonly backends: readonly BackendConfig[];
}

export interface AdminConfig {
  readonly listen: Endpoint;
  readonly token: string | undefined;
}

/** Of the engine `kernel`; the others take no notice. */
export interface KernelConfig {
  /** Where clients arrive; empty: the interfaces of the listeners' addresses. */
  readonly interfaces: readonly string[];
  /** Whose address backends see; undefined: as `client`, but only where the engine is named. */
  readonly sourceAddress: 'client' | 'relay' | undefined;
  /** With `relay`: the ports towards backends. */
  readonly relayPorts: { readonly first: number; readonly last: number };
  /** Where the BPF file system is, or may be mounted; `none`: nothing outlives the process. */
  readonly bpffs: string;
  /** At the end, leaves the programs where they are, so that traffic goes on without the relay. */
  readonly keepAttached: boolean;
}

export interface RelayConfig {
  /** Tells the relays of one machine apart where they leave something behind in the system. */
  readonly name: string;
  readonly engine: EngineChoice;
  /** Worker threads of engines that have them; undefined: one for each core. */
  readonly workers: number | undefined;
  /** How long a worker lets datagrams gather before it looks again, in microseconds. */
  readonly coalesceUs: number;
  readonly hashSeed: number;
  readonly kernel: KernelConfig;
  readonly listeners: readonly ListenerConfig[];
  readonly pools: readonly PoolConfig[];
  readonly admin: AdminConfig | undefined;
  readonly limits: {
    readonly maxSessions: number;
    /** Undefined: the default, or as many as there are descriptors for. */
    readonly maxUpstreamSockets: number | undefined;
  };
  readonly shutdown: {
    /** Between the first 503 of /readyz and the drain. */
    readonly delayMs: number;
    readonly deadlineMs: number;
  };
  readonly log: { readonly level: LogLevel };
}

/** What the command line says beside a file: it holds against the file, through every reload. */
export type ConfigOverrides = Partial<Pick<RelayConfig, 'engine' | 'log'>>;

export interface CheckedConfig {
  readonly config: RelayConfig;
  /** What works, but is probably not meant; one sentence each, with the key's path. */
  readonly warnings: readonly string[];
}

export interface ParseOptions {
  /** What the problems are reported against, such as the file's path. Default `configuration`. */
  readonly source?: string;
  /** Where `${NAME}` is looked up. Default: the environment of the process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * Reads and checks a configuration file.
 *
 * @throws RelayError TICKRELAY_ERR_CONFIG naming every problem, or the file that can't be read
 */
export async function loadConfig(path: string, options: ParseOptions = {}): Promise<CheckedConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new RelayError('TICKRELAY_ERR_CONFIG', `${path} can't be read (${reason})`, { cause: error });
  }
  return parseConfig(text, { source: path, ...options });
}

/**
 * Checks a configuration in YAML (or JSON, which is YAML).
 *
 * @throws RelayError TICKRELAY_ERR_CONFIG naming every problem with its line, path, value and what would be right
 */
export function parseConfig(text: string, options: ParseOptions = {}): CheckedConfig {
  const { source = 'configuration', env = process.env } = options;
  const problems = new Problems();
  const document = new ConfigDocument(text, env, problems);
  const checked = document.data !== undefined ? checkData(document.data, problems) : undefined;
  if (checked === undefined || !problems.isEmpty) {
    throw problems.toError(source, (path) => document.describe(path));
  }
  return checked;
}

/** Checks data in the file's form. Returns nothing when there were problems; they are in `problems`. */
export function checkData(data: unknown, problems: Problems): CheckedConfig | undefined {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    problems.add(
      [],
      'should have the keys listeners and pools, each on a line of its own, such as "listeners:"',
    );
    return undefined;
  }
  const root = problems.read(rootSchema, data, []);
  const raw = data as { readonly listeners?: unknown; readonly pools?: unknown };
  const rawListeners = Array.isArray(raw.listeners) ? (raw.listeners as unknown[]) : [];
  const rawPools = Object.entries(typeof raw.pools === 'object' ? (raw.pools ?? {}) : {});

  const listeners = rawListeners.map((value, i) => problems.read(listenerSchema, value, ['listeners', i]));
  const pools = rawPools.map(([name, value]) => {
    const users = listeners.filter((listener) => listener?.pool === name);
    const isTcp = users.length > 0 && users.every((listener) => listener?.protocol === 'tcp');
    const pool = problems.read(poolSchema(isTcp ? 'tcp' : 'none'), value, ['pools', name]);
    return pool && { name, ...pool };
  });
  const poolNames = rawPools.map(([name]) => name);
  checkConfig({ listeners, pools, poolNames, admin: root?.admin }, problems);
  if (root !== undefined) {
    checkTcpEngines({ ...root, listeners, pools }, problems);
    checkRelayPorts({ ...root, listeners }, problems);
    checkKernelRoom({ ...root, listeners }, problems);
  }
  if (root === undefined || !problems.isEmpty) return undefined;

  const config: RelayConfig = {
    ...root,
    listeners: listeners.filter((listener) => listener !== undefined),
    pools: pools.filter((pool) => pool !== undefined),
  };
  return { config, warnings: configWarnings(config) };
}
