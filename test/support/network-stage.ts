/** A stage whose processes stand in the namespaces of a network bed: clients, a kernel relay and backends, each with a network of its own. */
import { type ManagedProcess, type ProcessSpec, tickrelay } from '../../bench/process-group.ts';
import { BpfFileSystem } from './bpffs.ts';
import { NetworkBed, type Role, type Topology } from './netns.ts';
import { Stage } from './stage.ts';

export type SourceAddress = 'client' | 'relay';

/** What the kernel engine works in: the network, whose address backends see, and the kind of IP. */
export const NETWORK_CASES: readonly (readonly [Topology, SourceAddress, 4 | 6])[] = [
  ['routed', 'client', 4],
  ['routed', 'client', 6],
  ['routed', 'relay', 4],
  ['one-armed', 'relay', 4],
  ['one-armed', 'relay', 6],
];

export class NetworkStage extends Stage {
  readonly bed: NetworkBed;

  constructor(topology: Topology) {
    super();
    this.bed = this.closing(NetworkBed.make(topology));
  }

  startIn(role: Role, spec: ProcessSpec): ManagedProcess {
    return this.start(this.bed.of(role).inside(spec));
  }

  /** Runs a module of this text by node to its end. @returns what it prints */
  runModule(role: Role, text: string, ...args: readonly string[]): string {
    return this.bed.run(role, process.execPath, '--input-type=module', '-e', text, ...args);
  }

  /** `10.77.1.1:7777` or `[fd77:1::1]:7777`. */
  endpoint(role: Role, port: number, family: 4 | 6 = 4): string {
    const address = this.bed.address(role, family);
    return family === 6 ? `[${address}]:${port}` : `${address}:${port}`;
  }

  /** Starts a relay on engine kernel with pins of its own. Resolves when it is ready. */
  async kernelRelay(config: object, sourceAddress: SourceAddress): Promise<ManagedProcess> {
    const bpffs = this.closing(new BpfFileSystem());
    const kernel = { bpffs: bpffs.path, sourceAddress };
    const file = this.writeFile('relay.yaml', { engine: 'kernel', kernel, ...config });
    const relay = this.startIn('relay', tickrelay('relay', ['relay', '--json', '--config', file]));
    await relay.event('ready');
    return relay;
  }

  /** Starts a game server and waits until it serves. */
  async gameServerIn(role: Role, listen: string): Promise<ManagedProcess> {
    const args = ['gameserver', '--json', '--id', '1', '--listen', listen];
    const server = this.startIn(role, tickrelay('server', args));
    await server.event('ready');
    return server;
  }

  /** Starts five players, 64 times a second each, for a moment; `summary` is their last event. */
  play(target: string, duration = '1s'): ManagedProcess {
    const load = ['--players', '5', '--tick', '64', '--ramp', '100ms', '--warmup', '100ms'];
    const args = ['bots', '--json', '--target', target, ...load, '--duration', duration];
    return this.startIn('client', tickrelay('bots', args));
  }
}

/** What the summary of a relay says of one direction. */
export interface Traffic {
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: Readonly<Record<string, number>>;
}

export interface UdpSummary {
  readonly downstream: Traffic;
  readonly upstream: Traffic;
  readonly upstreamUnreachable: number;
}

/** Ends the relay. @returns what it says of its listener `game` at its end */
export async function udpSummaryOf(relay: ManagedProcess): Promise<UdpSummary> {
  relay.signal('SIGTERM');
  const { udp } = await relay.event('summary');
  return (udp as Record<string, UdpSummary>)['game']!;
}
