/** Where a TCP listener's connections are carried: by the kernel, where its engine has TCP, or by user space. */
import { RelayError } from '../net/relay-error.ts';
import type { KernelConfig, ListenerConfig, PoolConfig, TcpListenerConfig } from './control/config.ts';
import { kernelPools } from './control/kernel-room.ts';
import { userspaceNeeds } from './control/tcp-needs.ts';
import type { Engine } from './engines/engine.ts';

export interface TcpPlace {
  readonly isInKernel: boolean;
  /** One line for the log. */
  readonly reason: string;
}

/** The rest of the configuration, as far as the place depends on it. */
export interface PlaceOptions {
  readonly engine: Engine;
  readonly kernel: KernelConfig;
  readonly pools: readonly PoolConfig[];
}

/**
 * The places of TCP listeners, by name. Those of one pool are together, unless their own engine says otherwise: each place counts its
 * own connections, and a backend's cap and least-connections ask for the sum. What the engine has no room for stays in user space.
 *
 * @throws RelayError TICKRELAY_ERR_ENGINE when a listener shall be in the kernel, and the engine that runs is another one
 */
export function placesOf(
  listeners: readonly ListenerConfig[],
  options: PlaceOptions,
): ReadonlyMap<string, TcpPlace> {
  const { maxPools = Number.POSITIVE_INFINITY } = options.engine;
  const pools = new Set(kernelPools(listeners));
  const alone = listeners
    .filter((listener) => listener.protocol === 'tcp')
    .map((listener) => ({ listener, place: placeOf(listener, options) }));
  return new Map(
    alone.map(({ listener: { name, pool, engine }, place }) => {
      if (engine !== 'auto' || !place.isInKernel) return [name, place];
      const other = alone.find((one) => one.listener.pool === pool && !one.place.isInKernel);
      if (other !== undefined) {
        const reason = `its pool's connections are counted in user space, where listener "${other.listener.name}" is`;
        return [name, { isInKernel: false, reason }];
      }
      if (!pools.has(pool) && pools.size >= maxPools) {
        const reason = `the kernel has room for ${maxPools} pools, and other listeners need them all`;
        return [name, { isInKernel: false, reason }];
      }
      pools.add(pool);
      return [name, place];
    }),
  );
}

function placeOf(listener: TcpListenerConfig, { engine, kernel, pools }: PlaceOptions): TcpPlace {
  if (listener.engine === 'userspace') return { isInKernel: false, reason: 'chosen by the configuration' };
  if (engine.tcp === undefined) {
    if (listener.engine === 'auto') return { isInKernel: false, reason: `engine ${engine.name} has no TCP` };
    throw new RelayError(
      'TICKRELAY_ERR_ENGINE',
      `listener "${listener.name}" has engine kernel, and the relay's engine is ${engine.name}; ` +
        'the log and tickrelay_engine_info say why; set the engine of the listener to auto or userspace',
    );
  }
  if (listener.engine === 'kernel') return { isInKernel: true, reason: 'chosen by the configuration' };
  if (kernel.sourceAddress === undefined)
    return { isInKernel: false, reason: 'nobody has said whose address backends shall see' };
  const pool = pools.find(({ name }) => name === listener.pool);
  const [need] = userspaceNeeds(listener, pool);
  if (need !== undefined) return { isInKernel: false, reason: `${need.key.join('.')}: ${need.why}` };
  const backends = pool?.backends.map(({ endpoint }) => endpoint) ?? [];
  const whyNot = engine.tcp.whyNot(listener.listen, backends);
  if (whyNot !== undefined) return { isInKernel: false, reason: whyNot };
  return { isInKernel: true, reason: 'auto: it asks for nothing that only user space has' };
}
