/**
 * Sends each datagram back, a process of its own: `node ping-server.js ADDRESS`. Prints `ready` with its address, and then
 * waits in the system call, so only a signal ends it.
 */
import { Endpoint } from '../../net/address.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import { PingSocket } from './ping-socket.ts';

const loaded = loadLibc();
if ('unavailable' in loaded) throw new Error(loaded.unavailable);
const socket = new PingSocket(loaded.libc, Endpoint.parse(process.argv[2]!));
process.stdout.write(`${JSON.stringify({ event: 'ready', udp: socket.local.toString() })}\n`);
for (;;) {
  const bytes = socket.receive();
  if (bytes >= 0) socket.send(bytes);
}
