/** `tickrelay relay`: the relay as a process. */
import type { Logger } from 'pino';
import type { CommandModule } from 'yargs';
import { createLogger, LOG_LEVELS, onStopSignal, printEvent } from '../command-line.ts';
import { RelayError } from '../net/relay-error.ts';
import { configFromFlags, type RelayFlags } from './control/config-flags.ts';
import { ENGINE_CHOICES, SOURCE_ADDRESSES } from './control/config-schema.ts';
import { loadConfig, type CheckedConfig, type ConfigOverrides, type RelayConfig } from './control/config.ts';
import { ALGORITHMS } from './core/select.ts';
import { Relay, type RelayAddresses } from './relay.ts';

type RelayArguments = RelayFlags & { readonly config?: string | undefined; readonly json: boolean };

/** Flags that may be repeated. */
const LIST_FLAGS = ['backend', 'tcp', 'registerAllow', 'interface'];

/** Flags that describe the relay itself; a file says the same with more detail, so the two don't mix. */
const CONFIG_FLAGS = [
  'udp',
  'backend',
  'tcp',
  'algorithm',
  'idle-timeout',
  'health-check',
  'admin',
  'admin-token',
  'register-token',
  'register-allow',
  'workers',
  'coalesce',
  'hash-seed',
  'name',
  'interface',
  'source-address',
  'bpffs',
  'keep-attached',
  'max-sessions',
  'shutdown-deadline',
] as const;

export const command: CommandModule<object, RelayArguments> = {
  command: 'relay',
  describe: 'Relay players to game servers (UDP) and logins to databases (TCP)',
  builder: (yargs) =>
    yargs
      .options({
        config: { alias: 'c', type: 'string', requiresArg: true, describe: 'Configuration file (YAML)' },
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
        engine: { choices: ENGINE_CHOICES, describe: 'Data plane for UDP; default auto' },
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
          describe:
            'Engine kernel: where clients arrive; repeat for more; default: where the address is, and lo',
        },
        'source-address': {
          choices: SOURCE_ADDRESSES,
          describe:
            'Engine kernel: whose address backends see; default client; auto takes the engine only with it',
        },
        bpffs: {
          type: 'string',
          requiresArg: true,
          describe:
            'Engine kernel: the BPF file system in which sessions outlive the relay, or none; default /sys/fs/bpf',
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
        'log-level': { choices: LOG_LEVELS, describe: 'Default info' },
        json: { type: 'boolean', default: false, describe: 'JSON lines on standard output: ready, summary' },
      })
      .conflicts('config', [...CONFIG_FLAGS])
      .example(
        '$0 relay --udp 0.0.0.0:7777 --backend 10.0.0.3:7777 --backend 10.0.0.5:7777',
        'two game servers',
      )
      .example(
        '$0 relay --udp 0.0.0.0:7777 --tcp 5432=10.0.0.3:5432 --admin 127.0.0.1:7900',
        'servers register',
      )
      .example('$0 relay --config relay.yaml', 'docs/configuration.md has every key')
      .epilogue(
        'Signals: SIGTERM and SIGINT drain and end, a second one ends at once; SIGHUP reads the file ' +
          'again, or, without --config, ends like SIGTERM.\n\n' +
          'Exit codes: 0 ended by a signal; 1 an address is taken or the engine cannot run; ' +
          '2 the flags or the file are wrong; 130 a second signal.',
      ),
  handler: runRelay,
};

interface RunningRelay {
  readonly relay: Relay;
  readonly logger: Logger;
  readonly addresses: RelayAddresses;
}

async function runRelay(args: RelayArguments): Promise<void> {
  const starting = startRelay(args);
  const hasFile = args.config !== undefined;
  // A file may change while the relay starts; the reload then follows at once.
  if (hasFile)
    process.on('SIGHUP', () => {
      void starting.then(
        ({ relay }) => relay.reload(),
        () => undefined,
      );
    });
  const { relay, addresses, logger } = await starting;
  // Without a file there is nothing to read again: SIGHUP is the terminal that was closed.
  const stopSignals = ['SIGINT', 'SIGTERM', ...(hasFile ? [] : ['SIGHUP' as const])] as const;
  const stopped = new Promise<NodeJS.Signals>((resolve) => onStopSignal(resolve, stopSignals));
  printReady(relay, addresses, args.json);
  logger.info({ signal: await stopped }, 'ending');
  await relay.drain();
  await relay.close();
  // Only now has the last datagram been counted.
  if (args.json) printEvent('summary', relay.summary());
}

async function startRelay(args: RelayArguments): Promise<RunningRelay> {
  requireSingle(args);
  const { config: read, warnings } = await readConfig(args);
  const overrides = args.config === undefined ? {} : overridesOf(args);
  const config = { ...read, ...overrides };
  const logger = createLogger('tickrelay', config.log.level);
  for (const warning of warnings) logger.warn(warning);
  const relay = new Relay({ config, configPath: args.config, overrides, logger });
  return { relay, logger, addresses: await relay.start() };
}

/** @throws RelayError TICKRELAY_ERR_CONFIG naming the flag that was given twice */
function requireSingle(args: RelayArguments): void {
  const twice = Object.entries(args).find(
    ([key, value]) =>
      Array.isArray(value) && /^[a-z]/i.test(key) && !key.includes('-') && !LIST_FLAGS.includes(key),
  );
  if (twice === undefined) return;
  const flag = `--${twice[0].replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  throw new RelayError(
    'TICKRELAY_ERR_CONFIG',
    `${flag} is given more than once: ${(twice[1] as unknown[]).join(', ')}`,
  );
}

async function readConfig(args: RelayArguments): Promise<CheckedConfig> {
  return args.config === undefined ? configFromFlags(args) : loadConfig(args.config);
}

/** The flags that may stand beside a file; yargs has checked their values. */
function overridesOf({ engine, logLevel }: RelayArguments): ConfigOverrides {
  return {
    ...(engine === undefined ? {} : { engine: engine as RelayConfig['engine'] }),
    ...(logLevel === undefined ? {} : { log: { level: logLevel as RelayConfig['log']['level'] } }),
  };
}

function printReady(relay: Relay, { listeners, admin }: RelayAddresses, json: boolean): void {
  const bound = Object.fromEntries(Array.from(listeners, ([name, local]) => [name, local.toString()]));
  if (json) {
    printEvent('ready', { engine: relay.engineName, listeners: bound, admin: admin?.toString() });
    return;
  }
  for (const [name, local] of Object.entries(bound)) process.stdout.write(`listener ${name} on ${local}\n`);
  if (admin !== undefined) process.stdout.write(`admin on http://${admin.toString()}\n`);
}
