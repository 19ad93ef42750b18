/** UDP listeners over real maps and without programs: how tests ask for them, and what the programs would find. */
import { Endpoint } from '../../net/address.ts';
import type { UdpListenerSpec } from '../../relay/engines/engine.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { listenerKeyOf } from '../../relay/engines/kernel/listener-address.ts';
import type { Bpf } from '../../relay/engines/kernel/loader.ts';
import { PoolWriter } from '../../relay/engines/kernel/pool-writer.ts';
import { PORT } from '../../relay/engines/kernel/records.ts';

const DEFAULT_RULES: Omit<UdpListenerSpec, 'name' | 'listen' | 'pool'> = {
  algorithm: 'ip-hash',
  idleTimeoutMs: 120_000,
  pinTimeoutMs: 600_000,
  receiveBufferBytes: 65_536,
  limits: { sessionsPerSource: 0, sessionRatePerSource: 0, sessionRate: 0, amplification: 0 },
};

export function udpListener(
  name: string,
  listen: string,
  rules: Partial<UdpListenerSpec> = {},
): UdpListenerSpec {
  return { ...DEFAULT_RULES, name, listen: Endpoint.parse(listen), pool: 'game', ...rules };
}

export class ListenerRig {
  readonly maps: KernelMaps;
  readonly pool: PoolWriter;

  constructor(bpf: Bpf) {
    this.maps = KernelMaps.create(bpf, { maxSessions: 16, maxPools: 4 });
    this.pool = new PoolWriter(this.maps, 3);
  }

  portFlags(port: number): number {
    const { ports } = this.maps.mapped;
    return ports.u16[ports.at(port, PORT.at.flags) >> 1]!;
  }

  /** The index that the programs find under the address. */
  indexOf(local: Endpoint): number | undefined {
    const value = new Uint8Array(4);
    return this.maps.maps.listeners.lookup(listenerKeyOf(local), value) ? value[0] : undefined;
  }

  close(): void {
    this.maps.close();
  }
}
