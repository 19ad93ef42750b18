/** `tickrelay relay`: the relay as a process. */
import type { Logger } from 'pino';
import type { CommandModule } from 'yargs';
import { createLogger, onStopSignal, printEvent } from '../command-line.ts';
import { requireSingle } from '../flag-values.ts';
import { configFromFlags, type RelayFlags } from './control/config-flags.ts';
import { loadConfig, type CheckedConfig, type ConfigOverrides, type RelayConfig } from './control/config.ts';
import { DESCRIBING_FLAGS, flags, LIST_FLAGS } from './flags.ts';
import { trimHeap } from './heap-trim.ts';
import { Relay, type RelayAddresses } from './relay.ts';

type RelayArguments = RelayFlags & { readonly config?: string | undefined; readonly json: boolean };

export const command: CommandModule<object, RelayArguments> = {
  command: 'relay',
  describe: 'Relay players to game servers (UDP) and logins to databases (TCP)',
  builder: (yargs) =>
    yargs
      .options(flags)
      .conflicts('config', DESCRIBING_FLAGS)
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
  const hasFile = args.config !== undefined;
  // Without a file there is nothing to read again: SIGHUP is the terminal that was closed.
  const stopSignals = ['SIGINT', 'SIGTERM', ...(hasFile ? [] : ['SIGHUP' as const])] as const;
  const stop = new AbortController();
  const stopped = new Promise<NodeJS.Signals>((resolve) => {
    onStopSignal((signal) => {
      resolve(signal);
      stop.abort();
    }, stopSignals);
  });
  const starting = startRelay(args, stop.signal);
  // A file may change while the relay starts; the reload then follows at once.
  if (hasFile)
    process.on('SIGHUP', () => {
      void starting.then(
        (running) => running?.relay.reload(),
        () => undefined,
      );
    });
  const running = await starting;
  if (running === undefined) return;
  const { relay, addresses, logger } = running;
  printReady(relay, addresses, args.json);
  logger.info({ signal: await stopped }, 'ending');
  await relay.drain();
  await relay.close();
  // Only now has the last datagram been counted.
  if (args.json) printEvent('summary', relay.summary());
}

/** @returns undefined when `stop` came before the relay was ready: nothing has begun then */
async function startRelay(args: RelayArguments, stop: AbortSignal): Promise<RunningRelay | undefined> {
  requireSingle(args, LIST_FLAGS);
  const { config: read, warnings } = await readConfig(args);
  const overrides = args.config === undefined ? {} : overridesOf(args);
  const config = { ...read, ...overrides };
  const logger = createLogger('tickrelay', config.log.level);
  for (const warning of warnings) logger.warn(warning);
  const relay = await Relay.open({ config, configPath: args.config, overrides, logger });
  try {
    // All code is loaded, and nobody waits for the relay yet.
    await trimHeap();
    return { relay, logger, addresses: await relay.start(stop) };
  } catch (error) {
    // If it was the start that failed, the relay is closed already.
    await relay.close().catch(() => undefined);
    if (error !== stop.reason) throw error;
    logger.info('ended before it was ready');
    return undefined;
  }
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
