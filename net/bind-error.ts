/** Why an address can't be had, in an operator's words. */
import type { Endpoint } from './address.ts';
import { RelayError } from './relay-error.ts';

const REMEDIES: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program has this address; stop it or choose another port',
  EADDRNOTAVAIL: 'no interface of this machine has this address',
  EACCES: 'ports below 1024 need a privilege; choose a higher one',
  EMFILE: 'the process has no file descriptor left; raise `ulimit -n`',
  ENFILE: 'the system has no file descriptor left',
  EAFNOSUPPORT: 'this machine has no IPv6; choose an IPv4 address',
};

/** @param code the system's name for the failure, such as EADDRINUSE */
export function bindError(local: Endpoint, code: string, cause?: unknown, protocol = 'UDP'): RelayError {
  return new RelayError(
    'TICKRELAY_ERR_BIND',
    `can't bind ${protocol} ${local.toString()}: ${REMEDIES[code] ?? code}`,
    { cause },
  );
}
