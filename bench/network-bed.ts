/**
 * Network namespaces with veth pairs between them, for tests and benchmarks that need more than loopback. Everything that is made here is
 * removed again by `close`; names carry the process id, so that two runs don't meet.
 *
 *     routed       client -- relay -- server     the server's way back leads through the relay
 *     one-armed    client -+- server             a bridge in a namespace of its own joins three equals; the
 *                          +- relay              server knows nothing of the relay
 *
 * Addresses, the last byte being 1 relay, 2 client, 3 server:
 *
 *     client side   10.77.1.0/24   fd77:1::/64
 *     server side   10.77.2.0/24   fd77:2::/64    (routed only)
 */
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process';
import { NetworkNamespace } from './network-namespace.ts';

export type Role = 'client' | 'relay' | 'server';
export type Topology = 'routed' | 'one-armed';

/** The kernel tells of a link's state once a second at the most. */
const CARRIER_DEADLINE_MS = 10_000;

let bedsMade = 0;

/** Why namespaces can't be made here, or undefined. */
export function whyNoNamespaces(): string | undefined {
  try {
    new NetworkNamespace('probe').remove();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.split('\n')[0]! : String(error);
  }
}

export class NetworkBed {
  readonly topology: Topology;
  readonly #namespaces = new Map<Role | 'switch', NetworkNamespace>();
  readonly #children: ChildProcess[] = [];

  private constructor(topology: Topology) {
    this.topology = topology;
  }

  static make(topology: Topology): NetworkBed {
    const bed = new NetworkBed(topology);
    try {
      const number = bedsMade++;
      for (const role of ['client', 'relay', 'server', 'switch'] as const) {
        bed.#namespaces.set(role, new NetworkNamespace(`${number}-${role}`));
      }
      if (topology === 'routed') bed.#makeRouted();
      else bed.#makeOneArmed();
      bed.#awaitCarriers();
      return bed;
    } catch (error) {
      bed.#removeNamespaces();
      throw error;
    }
  }

  /** As `ip netns` lists it. */
  namespace(role: Role | 'switch'): string {
    return this.of(role).name;
  }

  of(role: Role | 'switch'): NetworkNamespace {
    return this.#namespaces.get(role)!;
  }

  /** The role's address on the client side, in text. */
  address(role: Role, family: 4 | 6 = 4): string {
    const side = role === 'server' && this.topology === 'routed' ? 2 : 1;
    return addressOf(side, role, family);
  }

  /** Runs a program in the role's namespace to its end. @returns what it prints. @throws when it fails */
  run(role: Role, command: string, ...args: string[]): string {
    return this.of(role).run(command, ...args);
  }

  /** Starts a program in the role's namespace; `close` ends it at the latest. */
  spawn(role: Role, command: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program, ...args] = command as [string, ...string[]];
    const spec = this.of(role).inside({ name: program, program, args });
    const child = spawn(spec.program!, spec.args, options);
    this.#children.push(child);
    return child;
  }

  /** Ends what runs in the namespaces and removes them. Idempotent. */
  async close(): Promise<void> {
    const running = this.#children
      .splice(0)
      .filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null);
    await Promise.all(
      running.map(
        (child) =>
          new Promise<void>((resolve) => {
            child.once('exit', () => resolve());
            child.kill('SIGKILL');
          }),
      ),
    );
    this.#removeNamespaces();
  }

  #makeRouted(): void {
    this.#connect('client', 'relay', { names: ['veth0', 'down0'], side: 1 });
    this.#connect('server', 'relay', { names: ['veth0', 'up0'], side: 2 });
    this.run('relay', 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward');
    this.run('relay', 'sh', '-c', 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding');
    for (const [role, side] of [
      ['client', 1],
      ['server', 2],
    ] as const) {
      this.of(role).ip('route', 'add', 'default', 'via', addressOf(side, 'relay', 4));
      this.of(role).ip('-6', 'route', 'add', 'default', 'via', addressOf(side, 'relay', 6));
    }
  }

  #makeOneArmed(): void {
    const bridge = this.of('switch');
    bridge.ip('link', 'add', 'br0', 'type', 'bridge');
    bridge.ip('link', 'set', 'br0', 'up');
    for (const role of ['client', 'relay', 'server'] as const) {
      const port = `${role}0`;
      const peer = ['peer', 'name', 'veth0', 'netns', this.namespace(role)];
      bridge.ip('link', 'add', port, 'type', 'veth', ...peer);
      bridge.ip('link', 'set', port, 'master', 'br0', 'up');
      this.#configure(role, 'veth0', 1);
    }
  }

  #connect(a: Role, b: Role, { names, side }: { names: readonly [string, string]; side: number }): void {
    const [nameOfA, nameOfB] = names;
    this.of(a).ip(
      'link',
      'add',
      nameOfA,
      'type',
      'veth',
      'peer',
      'name',
      nameOfB,
      'netns',
      this.namespace(b),
    );
    this.#configure(a, nameOfA, side);
    this.#configure(b, nameOfB, side);
  }

  #configure(role: Role, device: string, side: number): void {
    const namespace = this.of(role);
    namespace.ip('addr', 'add', `${addressOf(side, role, 4)}/24`, 'dev', device);
    namespace.ip('addr', 'add', `${addressOf(side, role, 6)}/64`, 'dev', device, 'nodad');
    namespace.ip('link', 'set', device, 'up');
  }

  /** A link that was set up carries a moment later; until then os.networkInterfaces() does not list its addresses. */
  #awaitCarriers(): void {
    const deadlineMs = performance.now() + CARRIER_DEADLINE_MS;
    for (const role of ['client', 'relay', 'server'] as const) {
      while (/state (?!UP|UNKNOWN)/.test(this.run(role, 'ip', '-o', 'link', 'show', 'type', 'veth'))) {
        if (performance.now() > deadlineMs)
          throw new Error(`the links of ${this.namespace(role)} carry nothing`);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
      }
    }
  }

  #removeNamespaces(): void {
    for (const namespace of this.#namespaces.values()) namespace.remove();
  }
}

function addressOf(side: number, role: Role, family: 4 | 6): string {
  const host = { relay: 1, client: 2, server: 3 }[role];
  return family === 4 ? `10.77.${side}.${host}` : `fd77:${side}::${host}`;
}
