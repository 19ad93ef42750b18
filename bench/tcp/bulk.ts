/** One connection that carries many bytes from the service to the client, or the other way. */
import { once } from 'node:events';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { addAbortSignal } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { Endpoint } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import type { ProcessGroup } from '../process-group.ts';
import { pour } from './pour.ts';

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
export async function download(target: Endpoint, bytes: number, signal: AbortSignal): Promise<number> {
  let received = 0;
  const startMs = performance.now();
  const socket = open(target, signal, {
    onread: {
      buffer: new Uint8Array(READ_BYTES),
      callback: (count) => {
        received += count;
        return true;
      },
    },
  });
  socket.write(order(bytes));
  await once(socket, 'close');
  return took(startMs, target, { carried: received, wanted: bytes });
}

/** @returns milliseconds until the server says that it has every byte. @throws RelayError TICKRELAY_ERR_LOAD when it has not */
export async function upload(target: Endpoint, bytes: number, signal: AbortSignal): Promise<number> {
  const startMs = performance.now();
  const socket = open(target, signal);
  socket.write(order(-bytes));
  // No FIN behind the bytes: a proxy without half-close would take the answer for lost.
  pour(socket, bytes);
  let carried = 0;
  socket.on('data', (answer: Buffer) => {
    carried = Number(answer.readBigInt64BE());
    socket.destroy();
  });
  await once(socket, 'close');
  return took(startMs, target, { carried, wanted: bytes });
}

/** A connection that `signal` ends. By the stream's way, since `connect` itself never takes its listener off the signal again. */
function open({ ip, port }: Endpoint, signal: AbortSignal, options?: Pick<NetConnectOpts, 'onread'>): Socket {
  return addAbortSignal(signal, connect({ host: ip.toString(), port, ...options }));
}

/** What the server is asked for: so many bytes, or with a minus to take so many. */
function order(bytes: number): Buffer {
  const wanted = Buffer.alloc(8);
  wanted.writeBigInt64BE(BigInt(bytes));
  return wanted;
}

function took(startMs: number, target: Endpoint, bytes: { carried: number; wanted: number }): number {
  if (bytes.carried === bytes.wanted) return performance.now() - startMs;
  throw new RelayError(
    'TICKRELAY_ERR_LOAD',
    `${bytes.carried} of ${bytes.wanted} bytes came through ${target.toString()}`,
  );
}
