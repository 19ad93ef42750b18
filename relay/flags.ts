/** The flags of `tickrelay relay`. */
import { LOG_LEVELS } from '../command-line.ts';
import { ENGINE_CHOICES, SOURCE_ADDRESSES } from './control/config-schema.ts';
import { DEFAULT_BPFFS } from './core/limits.ts';
import { ALGORITHMS } from './core/select.ts';

/** Flags that describe the relay itself; a file says the same with more detail, so the two don't mix. */
const describing = {
  udp: { type: 'string', requiresArg: true, describe: 'Public UDP address, like 0.0.0.0:7777' },
  backend: {
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'Game server behind --udp, like 10.0.0.3:7777; repeat for more',
  },
  tcp: {
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'TCP pass-through, like 5432=10.0.0.3:5432,10.0.0.5:5432; repeat for more',
  },
  algorithm: { choices: ALGORITHMS, describe: 'How new players are spread; default ip-hash' },
  'idle-timeout': { type: 'string', requiresArg: true, describe: 'Ends silent sessions; default 120s' },
  'health-check': {
    choices: ['none', 'tcp', 'heartbeat'],
    describe: 'Of the game servers; default none',
  },
  admin: { type: 'string', requiresArg: true, describe: 'Admin API and metrics, like 127.0.0.1:7900' },
  'admin-token': { type: 'string', requiresArg: true, describe: 'Bearer token of the admin API' },
  'register-token': {
    type: 'string',
    requiresArg: true,
    describe: 'Bearer token of game servers that register themselves',
  },
  'register-allow': {
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'Addresses that may register, like 10.0.0.0/24; default loopback',
  },
  workers: {
    type: 'string',
    requiresArg: true,
    describe: 'Worker threads of engine mmsg; default auto, one for each core',
  },
  coalesce: {
    type: 'string',
    requiresArg: true,
    describe: 'Microseconds that workers let datagrams gather: less CPU, later answers; default 0',
  },
  'hash-seed': {
    type: 'string',
    requiresArg: true,
    describe: 'Seed of ip-hash; relays that share it agree; default 0',
  },
  name: {
    type: 'string',
    requiresArg: true,
    describe:
      'Tells relays of one machine apart; engine kernel leaves its sessions under it; default tickrelay',
  },
  interface: {
    type: 'string',
    array: true,
    requiresArg: true,
    describe: 'Engine kernel: where clients arrive; repeat for more; default: where the address is, and lo',
  },
  'source-address': {
    choices: SOURCE_ADDRESSES,
    describe: 'Engine kernel: whose address backends see; default client; auto takes the engine only with it',
  },
  bpffs: {
    type: 'string',
    requiresArg: true,
    describe: `Engine kernel: the BPF file system in which sessions outlive the relay, or none; default ${DEFAULT_BPFFS}`,
  },
  'keep-attached': {
    type: 'boolean',
    describe: 'Engine kernel: at the end, leave the programs attached, so that players play on',
  },
  'max-sessions': {
    type: 'string',
    requiresArg: true,
    describe: 'Sessions that the table can hold; default 65536',
  },
  'shutdown-deadline': {
    type: 'string',
    requiresArg: true,
    describe: 'How long sessions may go on after SIGTERM; default 30s',
  },
} as const;

export const flags = {
  config: { alias: 'c', type: 'string', requiresArg: true, describe: 'Configuration file (YAML)' },
  ...describing,
  engine: { choices: ENGINE_CHOICES, describe: 'Data plane for UDP; default auto' },
  'log-level': { choices: LOG_LEVELS, describe: 'Default info' },
  json: { type: 'boolean', default: false, describe: 'JSON lines on standard output: ready, summary' },
} as const;

/** Those that can't stand beside --config. */
export const DESCRIBING_FLAGS = Object.keys(describing);

/** Those that may be repeated, by their names in the parsed arguments. */
export const LIST_FLAGS = ['backend', 'tcp', 'registerAllow', 'interface'];
