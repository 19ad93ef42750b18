/**
 * nginx's stream module as a peer: the common way to put one UDP address in front of several game servers. Its
 * configuration does the relay's job: a player's address decides the server, silent sessions end after two minutes, one
 * worker. https://nginx.org/en/docs/stream/ngx_stream_proxy_module.html
 */
import { execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { RelayError } from '../net/relay-error.ts';
import { confineRelay, pinned } from './pinning.ts';
import type { ManagedProcess } from './process-group.ts';
import type { Route, RouteOptions } from './routes.ts';
import { nginxStreamConfig } from './tcp/nginx-stream.ts';

/** Where packages put modules, for an nginx that does not say. */
const MODULE_DIRECTORIES = ['/usr/lib/nginx/modules', '/usr/lib64/nginx/modules', '/usr/local/libexec/nginx'];
const STREAM_MODULE = 'ngx_stream_module.so';
/** Where it stands on systems that keep /usr/sbin out of users' PATH. */
const PROGRAMS = ['nginx', '/usr/sbin/nginx', '/usr/local/sbin/nginx'];
const READY_DEADLINE_MS = 10_000;
/** How often its pid file is looked for, in ms. */
const POLL_MS = 10;

/** @throws RelayError when nginx or its stream module is not installed, or it does not start */
export async function openNginx({ group, backends, pinning, site }: RouteOptions): Promise<Route> {
  const { program, version, module } = findNginx();
  const directory = await mkdtemp(join(tmpdir(), 'tickrelay-nginx-'));
  try {
    const listen = `${site.relayIp}:${await freeUdpPort(site.relayIp)}`;
    const config = join(directory, 'nginx.conf');
    await writeFile(config, nginxConfig({ directory, module, listen, backends }));
    const spec = { name: 'nginx', program, args: ['-p', directory, '-c', config] };
    const child = group.start(pinned(spec, pinning && [pinning.relayCpu]));
    await untilListening(child, directory);
    confineRelay(child.pid, pinning);
    return {
      info: {
        name: 'nginx',
        kind: 'peer',
        detail: `${version}, stream module, worker_processes 1, hash $remote_addr consistent`,
      },
      targets: backends.map(() => listen),
      pid: child.pid,
      readMetrics: undefined,
      close: async () => {
        await child.stop();
      },
    };
  } finally {
    // It has read its configuration and holds its log open: nothing stays behind, however the benchmark ends.
    await rm(directory, { recursive: true, force: true });
  }
}

export interface Nginx {
  readonly program: string;
  readonly version: string;
  /** Path of the stream module, or undefined when it is built in. */
  readonly module: string | undefined;
}

/** @throws RelayError TICKRELAY_ERR_LOAD */
export function findNginx(): Nginx {
  for (const program of PROGRAMS) {
    const built = describeBuild(program);
    if (built !== undefined) return { program, ...parseBuild(built, existsSync) };
  }
  throw new RelayError('TICKRELAY_ERR_LOAD', 'nginx is not installed');
}

/** What `nginx -V` says, on standard error; undefined when there is no such program. */
function describeBuild(program: string): string | undefined {
  try {
    // The shell joins the two streams.
    return execFileSync('/bin/sh', ['-c', '"$0" -V 2>&1', program], { encoding: 'utf8' });
  } catch {
    return undefined;
  }
}

/** Reads `nginx -V`. @throws RelayError TICKRELAY_ERR_LOAD when it has no stream module */
export function parseBuild(built: string, exists: (path: string) => boolean): Omit<Nginx, 'program'> {
  const version = /nginx version: (\S+)/.exec(built)?.[1] ?? 'nginx';
  if (/--with-stream(\s|$)/.test(built)) return { version, module: undefined };
  const said = /--modules-path=(\S+)/.exec(built)?.[1];
  const module = [...(said === undefined ? [] : [said]), ...MODULE_DIRECTORIES]
    .map((directory) => join(directory, STREAM_MODULE))
    .find(exists);
  if (module !== undefined) return { version, module };
  throw new RelayError(
    'TICKRELAY_ERR_LOAD',
    `${version} is installed without its stream module (Debian's package is libnginx-mod-stream)`,
  );
}

export interface NginxSettings {
  /** Where its files go. */
  readonly directory: string;
  readonly module: string | undefined;
  readonly listen: string;
  readonly backends: readonly string[];
}

/**
 * Buffers are as large as the relay asks for, connections enough for every session of a benchmark. proxy_responses stands
 * at its default: any number of answers to a datagram.
 */
export function nginxConfig({ directory, module, listen, backends }: NginxSettings): string {
  const servers = `  upstream game_servers {
    hash $remote_addr consistent;
${backends.map((backend) => `    server ${backend};`).join('\n')}
  }
  server {
    listen ${listen} udp rcvbuf=4m sndbuf=4m;
    proxy_pass game_servers;
    proxy_timeout 120s;
  }`;
  return nginxStreamConfig({ directory, module, servers });
}

/** The pid file is written when the sockets are bound. @throws RelayError TICKRELAY_ERR_LOAD */
export async function untilListening(child: ManagedProcess, directory: string): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE_MS;
  while (child.exit === undefined && performance.now() < deadline) {
    const pid = await readFile(join(directory, 'nginx.pid'), 'utf8').catch(() => '');
    if (pid.trim() !== '') return;
    await sleep(POLL_MS);
  }
  const log = join(directory, 'error.log');
  const said = child.stderr.trim() || (existsSync(log) ? readFileSync(log, 'utf8').trim() : '');
  await child.stop();
  throw new RelayError('TICKRELAY_ERR_LOAD', `it did not start: ${said === '' ? 'it gave no reason' : said}`);
}

/** A port that was free a moment ago. */
async function freeUdpPort(ip: string): Promise<number> {
  const socket = createSocket('udp4');
  socket.bind(0, ip);
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  await once(socket, 'close');
  return port;
}
