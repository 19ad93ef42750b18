/** A UDP server that sends each datagram back, a process of its own. Prints `ready` with its address. */
import { Endpoint } from '../../net/address.ts';
import type { DatagramSocket } from '../../net/datagram-socket.ts';
import { chooseSocket } from '../../net/socket-choice.ts';

const { open } = chooseSocket('auto');
const socket: DatagramSocket = open({
  local: Endpoint.parse(process.argv[2] ?? '127.0.0.1:0'),
  onReceive: (batch) => void socket.send(batch),
});
process.once('SIGTERM', () => process.exit(0));
process.stdout.write(`${JSON.stringify({ event: 'ready', udp: socket.local.toString() })}\n`);
