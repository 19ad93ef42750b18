/** nginx's stream module in front of TCP services: a peer of the benchmark. */
import { userInfo } from 'node:os';
import type { Endpoint } from '../../net/address.ts';

export interface NginxStreamSettings {
  /** Where its files go. */
  readonly directory: string;
  /** Path of the stream module, or undefined when it is built in. */
  readonly module: string | undefined;
  /** `server` sections. */
  readonly servers: string;
}

/** A server that passes connections on to the one of its backends that has the fewest. */
export function nginxService(name: string, listen: Endpoint, backends: readonly Endpoint[]): string {
  return `
  upstream ${name} {
    least_conn;
${backends.map((backend) => `    server ${backend.toString()};`).join('\n')}
  }
  server {
    listen ${listen.toString()} backlog=4096;
    proxy_pass ${name};
    proxy_timeout 1h;
  }`;
}

export function nginxStreamConfig({ directory, module, servers }: NginxStreamSettings): string {
  // Started by root, workers would become another user. Any other user stays what it is.
  const user = process.getuid?.() === 0 ? `user ${userInfo().username};` : '';
  return `${module === undefined ? '' : `load_module ${module};`}
${user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid ${directory}/nginx.pid;
lock_file ${directory}/nginx.lock;
error_log ${directory}/error.log error;
events {
  worker_connections 32768;
}
stream {
${servers}
}
`;
}
