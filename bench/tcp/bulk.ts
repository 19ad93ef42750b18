/** One connection that carries many bytes from the service to the client. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { ProcessGroup } from '../process-group.ts';

/** The built server: beside this file in dist, or in dist when this file itself runs from its source (as in tests). */
const SERVER = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/bench/tcp/bulk-server.js' : './bulk-server.js',
    import.meta.url,
  ),
);
const READ_BYTES = 1024 * 1024;

export async function startBulkServer(group: ProcessGroup): Promise<Endpoint> {
  const { port } = await group.start({ name: 'bulk server', args: [SERVER] }).event('ready');
  return Endpoint.parse(`127.0.0.1:${port as number}`);
}

/** @returns milliseconds. @throws RelayError TICKRELAY_ERR_LOAD when not every byte came */
export async function transfer(target: Endpoint, bytes: number, signal: AbortSignal): Promise<number> {
  let received = 0;
  const startMs = performance.now();
  const socket = connect({
    host: target.ip.toString(),
    port: target.port,
    signal,
    onread: {
      buffer: new Uint8Array(READ_BYTES),
      callback: (count) => {
        received += count;
        return true;
      },
    },
  });
  const wanted = Buffer.alloc(8);
  wanted.writeBigUInt64BE(BigInt(bytes));
  socket.write(wanted);
  await once(socket, 'close');
  if (received === bytes) return performance.now() - startMs;
  throw new RelayError(
    'TICKRELAY_ERR_LOAD',
    `${received} of ${bytes} bytes came through ${target.toString()}`,
  );
}
