/** Writes many bytes as fast as the other side takes them, then the end. */
import type { Socket } from 'node:net';

const CHUNK = Buffer.alloc(256 * 1024, 'bulk');

export function pour(socket: Socket, bytes: number): void {
  let left = bytes;
  const more = (): void => {
    while (left > 0) {
      const length = Math.min(left, CHUNK.length);
      left -= length;
      if (!socket.write(length === CHUNK.length ? CHUNK : CHUNK.subarray(0, length))) {
        socket.once('drain', more);
        return;
      }
    }
    socket.end();
  };
  more();
}
