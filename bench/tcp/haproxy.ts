/**
 * HAProxy as a TCP peer, and as the other end of the PROXY protocol in tests. One thread, so that it is one worker for one
 * worker. https://docs.haproxy.org/
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';

/** Where it stands on systems that keep /usr/sbin out of users' PATH. */
const PROGRAMS = ['/usr/sbin/haproxy', '/usr/local/sbin/haproxy', '/usr/bin/haproxy'];

/** More than any run opens. HAProxy does not start where it can't have two descriptors for each. */
const MAX_CONNECTIONS = 4_000;

export interface HaproxyService {
  readonly listen: Endpoint;
  readonly backends: readonly Endpoint[];
  /** Further words of the `server` lines, such as `send-proxy-v2`. */
  readonly server?: string;
}

/** @throws RelayError TICKRELAY_ERR_LOAD when it is not installed */
export function findHaproxy(): { readonly program: string; readonly version: string } {
  const program = PROGRAMS.find((path) => existsSync(path));
  if (program === undefined) throw new RelayError('TICKRELAY_ERR_LOAD', 'HAProxy is not installed');
  const said = execFileSync(program, ['-v'], { encoding: 'utf8' });
  return { program, version: `HAProxy ${/version (\S+)/i.exec(said)?.[1] ?? ''}`.trim() };
}

export function haproxyConfig(services: readonly HaproxyService[], further = ''): string {
  const sections = services.map(
    ({ listen, backends, server = '' }, i) => `
listen service-${i}
  bind ${listen.toString()}
  balance leastconn
${backends.map((backend, j) => `  server backend-${j} ${backend.toString()} ${server}`.trimEnd()).join('\n')}
`,
  );
  return `global
  maxconn ${MAX_CONNECTIONS}
  nbthread 1
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
${sections.join('')}${further}`;
}
