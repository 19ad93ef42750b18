/**
 * The service of the bulk transfers, a process of its own. A client sends a number as 8 bytes big-endian, two's complement. A
 * positive one is how many bytes it wants: it gets them, and the end of the connection. A negative one is how many it is about to
 * send: once they are here, the server answers with their count.
 */
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { pour } from './pour.ts';

const server = createServer((socket) => {
  socket.on('error', () => undefined);
  socket.once('readable', () => {
    const order = socket.read(8) as Buffer | null;
    if (order?.length !== 8) {
      socket.destroy();
      return;
    }
    const bytes = Number(order.readBigInt64BE());
    if (bytes >= 0) pour(socket.resume(), bytes, () => socket.end());
    else drink(socket, -bytes);
  });
});

function drink(socket: Socket, bytes: number): void {
  let received = 0;
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
    if (received < bytes) return;
    const count = Buffer.alloc(8);
    count.writeBigInt64BE(BigInt(received));
    socket.end(count);
  });
}

server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${JSON.stringify({ event: 'ready', port })}\n`);
});
process.once('SIGTERM', () => process.exit(0));
