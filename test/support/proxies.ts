/** Real HAProxy and nginx in tests: where they are, and how they say who their client is. */
import { findHaproxy } from '../../bench/tcp/haproxy.ts';
import { findNginx, type Nginx } from '../../bench/nginx.ts';

/** The program, or why a test that needs it skips. */
export function haproxy(): { readonly program: string } | { readonly absent: string } {
  return found(findHaproxy);
}

export function nginx(): Nginx | { readonly absent: string } {
  return found(findNginx);
}

function found<T>(find: () => T): T | { readonly absent: string } {
  try {
    return find();
  } catch (error) {
    return { absent: (error as Error).message };
  }
}

/** A section for HAProxy that takes PROXY headers and answers over HTTP who its client is, and what that contacted. */
export function haproxyEcho(listen: string): string {
  return `
frontend echo
  mode http
  timeout client 10s
  bind ${listen} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst]:%[dst_port]"
`;
}

/** A server for nginx that takes PROXY headers and says who its client is, and what that contacted. */
export function nginxEcho(listen: string): string {
  return `
  server {
    listen ${listen} proxy_protocol;
    return "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port\\n";
  }`;
}
