/**
 * A configuration from command-line flags, for a first run without a file. The flags become data in the file's form
 * and pass the same checks, so that there is one set of rules and defaults.
 *
 * `--udp` makes the listener `game` and the pool `game-servers`; each `--tcp PORT=BACKENDS` makes the listener and pool `tcp-PORT`,
 * and `tcp-PORT-2` where another address has the port already.
 */
import { checkData, type CheckedConfig } from './config.ts';
import { formatPath, Problems, type ConfigPath } from './config-problems.ts';
import { Endpoint } from '../../net/address.ts';

/** Flags as text, as the operator typed them; docs/configuration.md names the key that each one sets. */
export interface RelayFlags {
  /** Public UDP address, `0.0.0.0:7777`. */
  readonly udp?: string | undefined;
  /** Game servers behind it, `10.0.0.3:7777`. */
  readonly backend?: readonly string[] | undefined;
  /** `5432=10.0.0.3:5432`, or with an address and several backends `127.0.0.1:5432=10.0.0.3:5432,10.0.0.5:5432`. */
  readonly tcp?: readonly string[] | undefined;
  readonly engine?: string | undefined;
  readonly algorithm?: string | undefined;
  readonly idleTimeout?: string | undefined;
  /** Health check of the game servers: none (default), tcp or heartbeat. The other types need a file. */
  readonly healthCheck?: string | undefined;
  readonly admin?: string | undefined;
  readonly adminToken?: string | undefined;
  /** Token of game servers that register themselves. */
  readonly registerToken?: string | undefined;
  /** Blocks of addresses that may register. Default: loopback. */
  readonly registerAllow?: readonly string[] | undefined;
  readonly workers?: string | number | undefined;
  readonly coalesce?: string | number | undefined;
  readonly hashSeed?: string | number | undefined;
  readonly name?: string | undefined;
  /** Interfaces of the engine `kernel`. */
  readonly interface?: readonly string[] | undefined;
  readonly sourceAddress?: string | undefined;
  readonly bpffs?: string | undefined;
  readonly keepAttached?: boolean | undefined;
  readonly maxSessions?: string | number | undefined;
  readonly shutdownDeadline?: string | undefined;
  readonly logLevel?: string | undefined;
}

const LOOPBACK = ['127.0.0.0/8', '::1/128'];

/** The flag that a part of the configuration came from. */
const FLAG_OF: readonly (readonly [RegExp, string])[] = [
  [/^listeners\[\d+\]\.algorithm/, '--algorithm'],
  [/^listeners\[\d+\]\.idleTimeout/, '--idle-timeout'],
  [/^pools\.game-servers\.backends/, '--backend'],
  [/^pools\.game-servers\.registration\.allow/, '--register-allow'],
  [/^pools\.game-servers\.registration/, '--register-token'],
  [/^pools\.game-servers\.healthCheck/, '--health-check'],
  [/^admin\.token/, '--admin-token'],
  [/^admin/, '--admin'],
  [/^limits\.maxSessions/, '--max-sessions'],
  [/^shutdown/, '--shutdown-deadline'],
  [/^log/, '--log-level'],
  [/^hashSeed/, '--hash-seed'],
  [/^workers/, '--workers'],
  [/^coalesceUs/, '--coalesce'],
  [/^engine/, '--engine'],
  [/^name/, '--name'],
  [/^kernel\.interfaces/, '--interface'],
  [/^kernel\.sourceAddress/, '--source-address'],
  [/^kernel\.bpffs/, '--bpffs'],
  [/^kernel\.keepAttached/, '--keep-attached'],
  [/^pools\.tcp-/, '--tcp'],
];

/** @throws RelayError TICKRELAY_ERR_CONFIG naming every flag that is wrong */
export function configFromFlags(flags: RelayFlags): CheckedConfig {
  const problems = new Problems();
  const listeners: object[] = [];
  const pools: Record<string, object> = {};
  if (flags.udp !== undefined) {
    const { algorithm, idleTimeout, healthCheck, backend = [] } = flags;
    const rules = defined({ algorithm, idleTimeout });
    listeners.push({ name: 'game', protocol: 'udp', listen: flags.udp, pool: 'game-servers', ...rules });
    pools['game-servers'] = defined({
      backends: backend,
      healthCheck: healthCheck === undefined ? undefined : { type: healthCheck },
      registration: registrationOf(flags),
    });
  } else if ((flags.backend ?? []).length > 0) {
    problems.add(['--backend'], 'needs --udp, the public address in front of it');
  }
  for (const [flag, value, needs] of dependentFlags(flags)) {
    if (value !== undefined && flags[needs] === undefined)
      problems.add([flag], `says nothing without --${needs}`);
  }
  for (const text of flags.tcp ?? []) addTcp(text, { listeners, pools, problems });
  if (listeners.length === 0 && problems.isEmpty) {
    problems.add(['--udp'], 'is missing; give --udp ADDRESS:PORT, --tcp PORT=BACKENDS or --config FILE');
  }

  const { name, engine, workers, coalesce, hashSeed, maxSessions, shutdownDeadline, logLevel } = flags;
  const { interface: interfaces, sourceAddress, bpffs, keepAttached } = flags;
  const data = defined({
    name,
    engine,
    workers,
    coalesceUs: coalesce,
    hashSeed,
    kernel: defined({ interfaces, sourceAddress, bpffs, keepAttached }),
    listeners,
    pools,
    admin: flags.admin === undefined ? undefined : defined({ listen: flags.admin, token: flags.adminToken }),
    limits: defined({ maxSessions }),
    shutdown: defined({ deadline: shutdownDeadline }),
    log: defined({ level: logLevel }),
  });
  const checked = listeners.length === 0 ? undefined : checkData(data, problems);
  const isUdpFirst = flags.udp !== undefined;
  if (checked === undefined) throw problems.toError('command line', (path) => describeFlag(path, isUdpFirst));
  return checked;
}

/** Flags that are about what another flag sets up: name, value, the other one. */
function dependentFlags(flags: RelayFlags): readonly (readonly [string, unknown, 'udp' | 'admin'])[] {
  const { algorithm, idleTimeout, healthCheck, registerToken, registerAllow, adminToken } = flags;
  return [
    ['--algorithm', algorithm, 'udp'],
    ['--idle-timeout', idleTimeout, 'udp'],
    ['--health-check', healthCheck, 'udp'],
    ['--register-token', registerToken, 'udp'],
    ['--register-token', registerToken, 'admin'],
    ['--register-allow', registerAllow, 'udp'],
    ['--register-allow', registerAllow, 'admin'],
    ['--admin-token', adminToken, 'admin'],
  ];
}

/**
 * Game servers may register where that is asked for, or where they must: no backend is named, and only this machine can
 * reach the admin address.
 */
function registrationOf({
  admin,
  backend = [],
  registerToken,
  registerAllow,
}: RelayFlags): object | undefined {
  if (admin === undefined) return undefined;
  const isAsked = registerToken !== undefined || registerAllow !== undefined;
  if (!isAsked && (backend.length > 0 || !isLoopback(admin))) return undefined;
  return defined({ allow: registerAllow ?? LOOPBACK, token: registerToken });
}

function isLoopback(address: string): boolean {
  try {
    return Endpoint.parse(address).ip.range === 'loopback';
  } catch {
    return false;
  }
}

interface Target {
  readonly listeners: object[];
  readonly pools: Record<string, object>;
  readonly problems: Problems;
}

function addTcp(text: string, { listeners, pools, problems }: Target): void {
  const match = /^(?:(?<host>.+):)?(?<port>\d{1,5})=(?<backends>.+)$/.exec(text);
  const { host = '0.0.0.0', port = '', backends = '' } = match?.groups ?? {};
  if (match === null) {
    problems.add(
      ['--tcp'],
      `"${text}" should be like 5432=10.0.0.3:5432 or 127.0.0.1:5432=10.0.0.3:5432,10.0.0.5:5432`,
    );
    return;
  }
  const first = `tcp-${port}`;
  let name = first;
  for (let i = 2; name in pools; i++) name = `${first}-${i}`;
  listeners.push({ name, protocol: 'tcp', listen: `${host}:${port}`, pool: name });
  pools[name] = { backends: backends.split(',') };
}

function describeFlag(path: ConfigPath, isUdpFirst: boolean): string {
  const where = formatPath(path);
  if (where.startsWith('--')) return where;
  const flag = FLAG_OF.find(([pattern]) => pattern.test(where))?.[1];
  return flag ?? (isUdpFirst && where.startsWith('listeners[0]') ? '--udp' : '--tcp');
}

/** The entries that were given: an absent flag is an absent key. */
function defined(entries: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined));
}
