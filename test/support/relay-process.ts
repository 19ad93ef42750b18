/**
 * The relay as a process, as an operator has it: started with flags or a configuration file, reloaded by SIGHUP, asked
 * through its admin API. Addresses come from its `ready` event, so that every port can be 0.
 */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request, type RequestOptions as HttpOptions } from 'node:http';
import { text } from 'node:stream/consumers';
import {
  tickrelay,
  type ManagedProcess,
  type ProcessGroup,
  type ProcessSpec,
} from '../../bench/process-group.ts';
import { Endpoint } from '../../net/address.ts';
import { ENGINE } from './engine-pass.ts';
import { MetricsPage, type Labels } from './metrics-page.ts';
import { until } from './until.ts';

export interface Answer<Body = unknown> {
  readonly status: number;
  readonly body: Body;
}

/** A refusal by the admin API. */
export interface ErrorBody {
  readonly code: string;
  readonly message: string;
}

export interface SessionRow {
  readonly listener: string;
  readonly client: string;
  readonly backend: string;
  readonly upstreamPort: number;
  readonly downstreamDatagrams: number;
  readonly upstreamDatagrams: number;
}

export interface ConnectionRow {
  readonly id: number;
  readonly listener: string;
  readonly client: string;
  readonly backend: string;
  readonly state: string;
  readonly downstreamBytes: number;
  readonly upstreamBytes: number;
}

export interface BackendRow {
  readonly id: string;
  readonly address: string;
  readonly state: string;
  readonly sessions: number;
  readonly failure?: string;
}

/** What a relay may find itself in. */
export interface RelaySurroundings {
  readonly engine?: string;
  /** As `ulimit -n` sets it. */
  readonly descriptorLimit?: number;
  readonly env?: Readonly<Record<string, string>>;
}

interface ReadyEvent {
  readonly listeners: Readonly<Record<string, string>>;
  readonly admin?: string;
}

/** Keys that `request` needs beside the path. */
export interface RequestOptions {
  readonly method?: string;
  /** An object is sent as JSON, text as it is. */
  readonly body?: object | string;
  readonly token?: string;
}

export class RelayProcess {
  readonly process: ManagedProcess;
  readonly #ready: ReadyEvent;
  readonly #configPath: string | undefined;

  private constructor(process: ManagedProcess, ready: ReadyEvent, configPath: string | undefined) {
    this.process = process;
    this.#ready = ready;
    this.#configPath = configPath;
  }

  /** Starts a relay from flags alone. Resolves when it is ready. */
  static async fromFlags(
    group: ProcessGroup,
    flags: readonly string[],
    { engine = ENGINE, descriptorLimit, env = {} }: RelaySurroundings = {},
  ): Promise<RelayProcess> {
    // Nothing may outlive a test, however it ends.
    const own = ['--engine', engine, '--bpffs', 'none'];
    const spec = { ...tickrelay('relay', ['relay', '--json', ...own, ...flags]), env };
    const child = group.start(descriptorLimit === undefined ? spec : limited(spec, descriptorLimit));
    return new RelayProcess(child, (await child.event('ready')) as unknown as ReadyEvent, undefined);
  }

  /** Starts a relay from a file that this writes. Resolves when it is ready. */
  static async fromConfig(
    group: ProcessGroup,
    config: object,
    path: string,
    flags: readonly string[] = [],
  ): Promise<RelayProcess> {
    writeConfig(path, config);
    const child = group.start(tickrelay('relay', ['relay', '--json', '--config', path, ...flags]));
    return new RelayProcess(child, (await child.event('ready')) as unknown as ReadyEvent, path);
  }

  /** The same with the command line of another version. */
  static async ofOtherVersion(
    group: ProcessGroup,
    cli: string,
    { config, path }: { readonly config: object; readonly path: string },
  ): Promise<RelayProcess> {
    writeConfig(path, config);
    const args = [cli, 'relay', '--json', '--config', path];
    const child = group.start({ name: 'relay of another version', args });
    return new RelayProcess(child, (await child.event('ready')) as unknown as ReadyEvent, path);
  }

  get listenerNames(): readonly string[] {
    return Object.keys(this.#ready.listeners);
  }

  get admin(): string {
    assert(this.#ready.admin !== undefined, 'the relay was started without an admin address');
    return `http://${this.#ready.admin}`;
  }

  /** Open descriptors of the process. */
  get descriptors(): number {
    return readdirSync(`/proc/${this.process.pid}/fd`).length;
  }

  /** How many of each kind are open, such as `socket` and `anon_inode:[eventpoll]`. */
  get descriptorKinds(): ReadonlyMap<string, number> {
    const kinds = new Map<string, number>();
    for (const fd of readdirSync(`/proc/${this.process.pid}/fd`)) {
      const kind = kindOfDescriptor(`/proc/${this.process.pid}/fd/${fd}`);
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    return kinds;
  }

  /** Where players reach it. @param name of the listener; the first one by default */
  listener(name = this.listenerNames[0]!): Endpoint {
    return Endpoint.parse(this.#ready.listeners[name]!);
  }

  async request<Body = ErrorBody>(path: string, options: RequestOptions = {}): Promise<Answer<Body>> {
    const { method = 'GET', body, token } = options;
    const response = await ask(`${this.admin}${path}`, {
      method,
      headers: {
        ...(typeof body === 'object' ? { 'content-type': 'application/json' } : {}),
        ...(typeof body === 'string' ? { 'content-type': 'application/yaml' } : {}),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      body: typeof body === 'object' ? JSON.stringify(body) : body,
    });
    const content = await text(response);
    const isJson = response.headers['content-type']?.startsWith('application/json') === true;
    return { status: response.statusCode!, body: (isJson ? JSON.parse(content) : content) as Body };
  }

  async metrics(): Promise<MetricsPage> {
    return new MetricsPage((await this.request<string>('/metrics')).body);
  }

  /** One metric, without `tickrelay_`: the sum of its samples with these labels. */
  async metric(name: string, labels?: Labels): Promise<number | undefined> {
    return (await this.metrics()).value(name, labels);
  }

  /** Waits until a metric has this value. */
  async untilMetric(name: string, labels: Labels, wanted: number): Promise<void> {
    const what = `tickrelay_${name}${JSON.stringify(labels)} = ${wanted}`;
    await until(what, async () => (await this.metric(name, labels)) === wanted);
  }

  async sessions(query = ''): Promise<readonly SessionRow[]> {
    const answer = await this.request<{ sessions: readonly SessionRow[] }>(
      `/v1/sessions?limit=10000${query}`,
    );
    return answer.body.sessions;
  }

  /** Live TCP connections. */
  async connections(): Promise<readonly ConnectionRow[]> {
    const { body } = await this.request<{ connections: readonly ConnectionRow[] }>('/v1/connections');
    return body.connections;
  }

  /** The backend of each live session, by client address. */
  async serversByClient(): Promise<ReadonlyMap<string, string>> {
    return new Map((await this.sessions()).map(({ client, backend }) => [client, backend]));
  }

  /** The backends of a pool, by id. */
  async backends(pool = 'game-servers'): Promise<ReadonlyMap<string, BackendRow>> {
    const { body } = await this.request<{ backends: readonly BackendRow[] }>(`/v1/pools/${pool}`);
    return new Map(body.backends.map((row) => [row.id, row]));
  }

  /** Waits until the pool has these backends in these states, and no others, and takes players. */
  async untilStates(wanted: Readonly<Record<string, string>>, pool = 'game-servers'): Promise<void> {
    await until(`backends ${JSON.stringify(wanted)}`, async () => {
      const rows = await this.backends(pool);
      const ids = Object.keys(wanted);
      const areThere = rows.size === ids.length && ids.every((id) => rows.get(id)?.state === wanted[id]);
      return areThere && (await this.request('/readyz')).status === 200;
    });
  }

  /** Replaces the configuration file. */
  writeConfig(config: object | string): void {
    assert(this.#configPath !== undefined, 'the relay was started without a file');
    writeConfig(this.#configPath, config);
  }

  /** Sends SIGHUP and waits for the relay's verdict. @returns whether it took the file over */
  async reload(): Promise<boolean> {
    const before = (await this.metric('config_reloads_total')) ?? 0;
    this.process.signal('SIGHUP');
    await this.untilMetric('config_reloads_total', {}, before + 1);
    return (await this.metric('config_last_reload_successful')) === 1;
  }
}

/** The same under `ulimit -n`. */
export function limited(spec: ProcessSpec, descriptorLimit: number): ProcessSpec {
  const args = ['-c', `ulimit -n ${descriptorLimit}; exec "$0" "$@"`, process.execPath, ...spec.args];
  return { ...spec, program: '/bin/sh', args };
}

/** JSON is YAML. */
function writeConfig(path: string, config: object | string): void {
  const own = { engine: ENGINE, kernel: { bpffs: 'none' } };
  writeFileSync(path, typeof config === 'string' ? config : JSON.stringify({ ...own, ...config }));
}

function kindOfDescriptor(path: string): string {
  try {
    return readlinkSync(path).replace(/:\[\d+\]$/, '');
  } catch {
    return 'closed meanwhile';
  }
}

interface Question extends Pick<HttpOptions, 'method' | 'headers'> {
  readonly body: string | undefined;
}

/** On a connection of its own, which ends with it: a pool of them, as fetch has, would be descriptors of the relay's. */
function ask(url: string, { body, ...options }: Question): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request(url, { ...options, agent: false }, resolve)
      .on('error', reject)
      .end(body);
  });
}
