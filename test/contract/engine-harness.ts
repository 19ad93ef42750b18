/** What the contract suite needs of an engine, and the fleet of clients and servers around it. */
import assert from 'node:assert/strict';
import { Endpoint } from '../../net/address.ts';
import { openDgramSocket } from '../../net/dgram-socket.ts';
import { type Libc, loadLibc } from '../../net/linux/libc.ts';
import { BackendPool } from '../../relay/core/backend-pool.ts';
import type { Engine, UdpListenerSpec } from '../../relay/engines/engine.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelEngine } from '../../relay/engines/kernel/kernel-engine.ts';
import { MmsgEngine } from '../../relay/engines/mmsg/mmsg-engine.ts';
import type { PortRange } from '../../relay/engines/kernel/relay-ports.ts';
import { UserspaceEngine } from '../../relay/engines/userspace/userspace-engine.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { type Answer, UdpPeer } from '../support/udp-peer.ts';

// Kernel programs see every packet of the loopback device, and relay ports are one relay's: so it is a device of our own.
enterOwnNetwork([]);

export interface EngineUnderTest {
  readonly engine: Engine;
  /** Lets time pass for the engine, and its sweeper do what is due. */
  readonly advance: (ms: number) => Promise<void>;
}

export interface EngineSettings {
  readonly maxSessions?: number;
  readonly maxUpstreamSockets?: number;
}

export const QUARANTINE_MS = 30_000;

interface EngineEntry {
  /** @returns why it can't run here, or undefined when it can */
  readonly whyUnavailable: () => string | undefined;
  readonly open: (settings: EngineSettings) => EngineUnderTest;
}

/** One entry for each engine; the suite runs on all of them. */
export const ENGINES: Readonly<Record<string, EngineEntry>> = {
  dgram: { whyUnavailable: () => undefined, open: dgram },
  'mmsg, one worker': mmsg({ workers: 1 }),
  'mmsg, three workers': mmsg({ workers: 3 }),
  'mmsg, without io_uring': mmsg({ workers: 1, ring: false }),
  'kernel, source client': kernel(undefined),
  'kernel, source relay': kernel({ first: 61_000, last: 64_999 }),
};

function dgram(settings: EngineSettings): EngineUnderTest {
  let nowMs = 1_000_000;
  const engine = new UserspaceEngine({
    ...defaults(settings),
    name: 'dgram',
    openSocket: openDgramSocket,
    now: () => nowMs,
  });
  return {
    engine,
    advance: (ms) => {
      nowMs += ms;
      engine.sweep();
      return Promise.resolve();
    },
  };
}

function mmsg(shape: { readonly workers: number; readonly ring?: boolean }): EngineEntry {
  return {
    whyUnavailable: whyNoSystemCalls,
    open: (settings) => {
      const clock = new Float64Array(new SharedArrayBuffer(8)).fill(1_000_000);
      const engine = new MmsgEngine({ ...defaults(settings), ...shape, libc: systemCalls(), clock });
      return {
        engine,
        advance: async (ms) => {
          clock[0]! += ms;
          await engine.sweep();
        },
      };
    },
  };
}

let kernelEngines = 0;

/** On loopback, with nothing pinned: all of it ends with the engine. */
function kernel(relayPorts: PortRange | undefined): EngineEntry {
  return {
    whyUnavailable: () => whyUnavailable() ?? whyNoSystemCalls(),
    open: ({ maxSessions = 1_000, maxUpstreamSockets = 1_000 }) => {
      let clockMs = 1_000_000;
      const engine = new KernelEngine({
        libc: systemCalls(),
        name: `contract-${process.pid}-${kernelEngines++}`,
        maxSessions,
        maxUpstreamSockets,
        relayPorts,
        hashSeed: 0,
        interfaces: ['lo'],
        upstreamQuarantineMs: QUARANTINE_MS,
        clockMs,
      });
      return {
        engine,
        advance: (ms) => {
          clockMs += ms;
          return engine.setClock(clockMs);
        },
      };
    },
  };
}

function whyNoSystemCalls(): string | undefined {
  const loaded = loadLibc();
  return 'unavailable' in loaded ? loaded.unavailable : undefined;
}

function systemCalls(): Libc {
  const loaded = loadLibc();
  assert('libc' in loaded);
  return loaded.libc;
}

function defaults({ maxSessions = 1_000, maxUpstreamSockets = 1_000 }: EngineSettings) {
  return {
    maxSessions,
    maxUpstreamSockets,
    upstreamQuarantineMs: QUARANTINE_MS,
    hashSeed: 0,
    tableSeed: 0x5eed,
  };
}

/** Engines whose workers each have a share of the table and of the listener's rate: cases about an exact cap are not theirs. */
export const SHARING_ENGINES = ['mmsg, three workers'];

/** Engines that ICMP errors of upstream sockets do not reach. */
export const UNSEEING_ENGINES = ['dgram', 'kernel, source client', 'kernel, source relay'];

/** Engines that answer from the address contacted only where an interface lists it: not from 127.0.0.2, which none does. */
export const LISTED_ONLY_ENGINES = ['dgram'];

/**
 * Engines whose backends see the player's own address and port: there are no upstream sockets to run short of, and who sends to
 * that address sends to the player, not to the relay.
 */
export const TRANSPARENT_ENGINES = ['kernel, source client'];

/**
 * Engines whose datagrams pass no socket: no buffers or upstream sockets can be counted, although ports may run short, and
 * clients of one address family can't be sent to backends of the other.
 */
export const SOCKETLESS_ENGINES = [...TRANSPARENT_ENGINES, 'kernel, source relay'];

export const RULES: Omit<UdpListenerSpec, 'name' | 'listen' | 'pool'> = {
  algorithm: 'ip-hash',
  idleTimeoutMs: 120_000,
  pinTimeoutMs: 600_000,
  receiveBufferBytes: 131_072,
  limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
};

/** A relay's data plane with servers behind it. Server `a` answers `a:` and the payload, and so on. */
export class Bed {
  readonly engine: Engine;
  readonly pool = new BackendPool('game');
  readonly servers = new Map<string, UdpPeer>();
  readonly advance: (ms: number) => Promise<void>;
  readonly #peers: UdpPeer[] = [];
  listener!: Endpoint;

  constructor(engineName: string, settings: EngineSettings = {}) {
    const { engine, advance } = ENGINES[engineName]!.open(settings);
    this.engine = engine;
    this.advance = advance;
  }

  /** Starts a listener and the servers named by `ids`. */
  async start(ids: readonly string[], rules: Partial<UdpListenerSpec> = {}): Promise<this> {
    for (const id of ids) this.addServer(id);
    await this.publish();
    const listen = Endpoint.parse('127.0.0.1:0');
    this.listener = await this.engine.addListener({ name: 'game', listen, pool: 'game', ...RULES, ...rules });
    return this;
  }

  addServer(id: string, local = '127.0.0.1:0'): UdpPeer {
    const server = this.peer(local, ({ payload }) => Buffer.concat([Buffer.from(`${id}:`), payload]));
    this.servers.set(id, server);
    this.pool.add({ id, endpoint: server.local, weight: 1 });
    return server;
  }

  async publish(): Promise<void> {
    await this.engine.publish(this.pool.snapshot());
  }

  peer(local: string, answer?: Answer): UdpPeer {
    const peer = new UdpPeer(local, answer);
    this.#peers.push(peer);
    return peer;
  }

  /** Clients on addresses of their own: 127.9.0.1, 127.9.0.2... */
  clients(count: number): UdpPeer[] {
    return Array.from({ length: count }, (_, i) => this.peer(`127.9.${i >> 8}.${(i & 255) + 1}:0`));
  }

  /** The id of the server that answers a client now. */
  async serverOf(client: UdpPeer): Promise<string> {
    const { payload, from } = await client.ask(this.listener, 'where');
    if (!from.equals(this.listener)) throw new Error(`the answer came from ${from.toString()}`);
    return payload.toString().split(':')[0]!;
  }

  async serversOf(clients: readonly UdpPeer[]): Promise<string[]> {
    const servers: string[] = [];
    for (const client of clients) servers.push(await this.serverOf(client));
    return servers;
  }

  counts() {
    return this.engine.listeners()[0]!.counts;
  }

  async stop(): Promise<void> {
    await this.engine.close();
    await Promise.all(this.#peers.map((peer) => peer.close()));
  }
}

/** received = forwarded + dropped by reason, in both directions. */
export function sums(counts: ReturnType<Bed['counts']>) {
  return (['downstream', 'upstream'] as const).map((direction) => {
    const { received, forwarded, dropped } = counts[direction];
    return { received, accounted: forwarded + Object.values(dropped).reduce((sum, count) => sum + count, 0) };
  });
}
