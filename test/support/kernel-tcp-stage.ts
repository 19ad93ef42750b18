/** A stage for TCP listeners in the kernel: one pool of backends behind one listener, in a BPF file system of the test's own. */
import { expect, test } from 'vitest';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { KernelStage } from './kernel-stage.ts';
import { enterOwnNetwork } from './own-network.ts';
import type { RelayProcess } from './relay-process.ts';
import { ECHO, startTcpBackend, type TcpBackend } from './tcp-backend.ts';
import { TcpClient } from './tcp-client.ts';

/** What differs from the configuration that most tests have. */
export interface KernelTcpChanges {
  readonly listen?: string;
  readonly listener?: object;
  readonly pool?: object;
  readonly rest?: object;
}

export class KernelTcpStage extends KernelStage {
  backend(id: string, program = ECHO, host = '127.0.0.1'): Promise<TcpBackend> {
    return startTcpBackend(this, id, { program, host });
  }

  kernelSection(sourceAddress: 'client' | 'relay' = 'client'): object {
    return { bpffs: this.bpffs.path, sourceAddress };
  }

  config(backends: readonly Omit<TcpBackend, 'process'>[], changes: KernelTcpChanges = {}): object {
    const { listen = '127.0.0.1:0', listener, pool, rest } = changes;
    return {
      name: 'tcp',
      engine: 'kernel',
      kernel: this.kernelSection(),
      listeners: [{ name: 'login', protocol: 'tcp', listen, pool: 'logins', ...listener }],
      pools: {
        logins: {
          healthCheck: { type: 'none' },
          backends: backends.map(({ id, address }) => ({ id, address })),
          ...pool,
        },
      },
      admin: { listen: '127.0.0.1:0' },
      shutdown: { deadline: '5s' },
      ...rest,
    };
  }

  /** @param listener by name; absent: the only one */
  async client(relay: RelayProcess, listener?: string, from?: string): Promise<TcpClient> {
    return this.closing(await TcpClient.connect(relay.listener(listener), from));
  }
}

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

/**
 * A test in a network of its file's own, where programs of a killed relay are in nobody's way, with a stage of its own; skipped
 * where the engine can't run.
 */
export const kernelTcpTest = test.extend<{ stage: KernelTcpStage }>({
  stage: async ({ skip }, use) => {
    if (unavailable !== undefined) return skip(unavailable);
    const stage = new KernelTcpStage();
    try {
      await use(stage);
    } finally {
      await stage.close();
    }
  },
});

export async function expectEcho(client: TcpClient, text: string): Promise<void> {
  const before = client.received.length;
  client.write(text);
  const received = await client.untilReceived(before + text.length);
  expect(received.subarray(before).toString()).toBe(text);
}
