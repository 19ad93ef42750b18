/**
 * Where the parts of a benchmark are: all on loopback, or players, relays and game servers each in a network namespace of
 * their own, with veth pairs between them (`--netns`):
 *
 *     players 10.78.0.0/16 -- 10.77.1.1 relay 10.77.2.1 -- 10.77.2.3 game servers
 *
 * Direct then means routed: the relay's namespace forwards what goes straight to the servers. The benchmark itself moves
 * into that namespace, so that relays, peers and their admin addresses are on its own loopback.
 */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import type * as Koffi from 'koffi';
import { errnoName, loadLibc } from '../net/linux/libc.ts';
import { RelayError } from '../net/relay-error.ts';
import { NetworkBed } from './network-bed.ts';
import type { ProcessSpec } from './process-group.ts';

export interface Site {
  /** As reports call it. */
  readonly name: string;
  /** Addresses, without a port. */
  readonly relayIp: string;
  readonly serverIp: string;
  /** Address of the first player of generator `i`, 0 to 3. */
  readonly firstPlayer: (i: number) => string;
  /** The spec of a program that plays, and of one that is played on. */
  readonly asClient: (spec: ProcessSpec) => ProcessSpec;
  readonly asServer: (spec: ProcessSpec) => ProcessSpec;
  readonly close: () => Promise<void>;
}

const LOOPBACK_IP = '127.0.0.1';

export const LOOPBACK: Site = {
  name: 'loopback',
  relayIp: LOOPBACK_IP,
  serverIp: LOOPBACK_IP,
  firstPlayer: (i) => `127.${i + 1}.0.1`,
  asClient: (spec) => spec,
  asServer: (spec) => spec,
  close: () => Promise.resolve(),
};

/** Every address of it is a player's. */
const PLAYERS = '10.78.0.0/16';
/** Networks of 256 addresses that a generator counts through. */
const NETWORKS_PER_GENERATOR = 64;

/** linux/sched.h */
const CLONE_NEWNET = 0x4000_0000;

/**
 * Makes the namespaces, and moves this process into the relay's.
 *
 * @throws RelayError TICKRELAY_ERR_LOAD for want of root, iproute2 or koffi
 */
export function openNamespaces(): Site {
  const loaded = loadLibc();
  if ('unavailable' in loaded) throw new RelayError('TICKRELAY_ERR_LOAD', `--netns: ${loaded.unavailable}`);
  const bed = NetworkBed.make('routed');
  try {
    bed.of('client').ip('route', 'add', 'local', PLAYERS, 'dev', 'lo');
    bed.of('relay').ip('route', 'add', PLAYERS, 'via', bed.address('client'));
    enter(`/run/netns/${bed.namespace('relay')}`);
  } catch (error) {
    void bed.close();
    throw error;
  }
  return {
    name: 'namespaces',
    relayIp: bed.address('relay'),
    serverIp: bed.address('server'),
    firstPlayer: (i) => `10.78.${NETWORKS_PER_GENERATOR * i}.1`,
    asClient: (spec) => bed.of('client').inside(spec),
    asServer: (spec) => bed.of('server').inside(spec),
    close: () => bed.close(),
  };
}

/** Moves this thread, and what it starts from now on, into a network namespace (setns(2)). */
function enter(path: string): void {
  const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
  const setns = koffi.load(null).func('int setns(int, int)') as (fd: number, kind: number) => number;
  const fd = openSync(path, 'r');
  try {
    const result = setns(fd, CLONE_NEWNET);
    assert.equal(result, 0, `can't enter ${path}: ${errnoName(koffi.errno())}`);
  } finally {
    closeSync(fd);
  }
}
