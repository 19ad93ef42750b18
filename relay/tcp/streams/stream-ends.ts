/**
 * What a connection does with its two sockets beside passing bytes on: how they are written to, read for a PROXY header, and
 * given up.
 */
import type { Socket } from 'node:net';
import { readProxyHeader, type ProxiedAddresses } from '../proxy-header.ts';

/** Bytes at which a stream asks its source to wait; docs/tcp.md derives the memory bound from it. */
export const STREAM_HIGH_WATER_BYTES = 16 * 1024;

/** Writes. @returns whether so much waits now that the source must; what the system took at once does not wait */
export function isHeldUp(socket: Socket, chunk: Buffer): boolean {
  return !socket.write(chunk) && socket.writableLength > 0;
}

export function bufferedBytes(socket: Socket | undefined): number {
  return socket === undefined ? 0 : socket.readableLength + socket.writableLength;
}

/**
 * Closes a socket so that its peer sees RST, never a FIN after only a part of the bytes. Where the last byte is out and
 * the FIN on its way, Node can't reset any more and need not: the peer has everything.
 */
export function reset(socket: Socket | undefined): void {
  if (socket === undefined || socket.destroyed) return;
  const isFinishing = socket.writableEnded && !socket.writableFinished && socket.writableLength === 0;
  if (socket.connecting || isFinishing) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Reads a PROXY header from a paused socket. What follows it stays in the socket, and so does the socket's end.
 *
 * @param onHeader undefined: the connection's own addresses count. Not called when the socket fails before.
 */
export function takeProxyHeader(
  socket: Socket,
  onHeader: (addresses: ProxiedAddresses | undefined | 'malformed') => void,
): void {
  let bytes = Buffer.alloc(0);
  const settle = (addresses: ProxiedAddresses | undefined | 'malformed'): void => {
    socket.off('readable', onReadable).off('end', onEnd);
    onHeader(addresses);
  };
  const onEnd = (): void => settle('malformed');
  const onReadable = (): void => {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) return;
    bytes = Buffer.concat([bytes, chunk]);
    const header = readProxyHeader(bytes);
    if (header === 'incomplete') return;
    if (header === 'malformed') {
      settle('malformed');
      return;
    }
    if (header.length < bytes.length) socket.unshift(bytes.subarray(header.length));
    settle(header.addresses);
  };
  socket.on('readable', onReadable).once('end', onEnd);
}
