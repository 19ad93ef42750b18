/** Writes many bytes as fast as the other side takes them. */
import type { Socket } from 'node:net';

const CHUNK = Buffer.alloc(256 * 1024, 'bulk');

/** @param onDone called when the last one is written */
export function pour(socket: Socket, bytes: number, onDone?: () => void): void {
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
    onDone?.();
  };
  more();
}
