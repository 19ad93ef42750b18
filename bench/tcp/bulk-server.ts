/**
 * The service of the bulk transfer, a process of its own. A client sends how many bytes it wants, as 8 bytes big-endian,
 * and gets so many; then the server ends the connection.
 */
import { createServer, type AddressInfo, type Socket } from 'node:net';

const CHUNK = Buffer.alloc(256 * 1024, 'bulk');

const server = createServer((socket) => {
  socket.on('error', () => undefined);
  socket.once('readable', () => {
    const wanted = socket.read(8) as Buffer | null;
    if (wanted?.length === 8) pour(socket, Number(wanted.readBigUInt64BE()));
    else socket.destroy();
  });
});

function pour(socket: Socket, bytes: number): void {
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

server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ event: 'ready', port })}\n`);
});
process.once('SIGTERM', () => process.exit(0));
