/**
 * Tells both ends of a connection that was cut, each in the other's name, by a RST with the number that it awaits (RFC 5961
 * section 3.2). Whoever had bytes under way by then answers with an ACK, and the program that meets it sends the right RST
 * (program-tcp-reset.ts); so does it where this process may not open raw sockets (CAP_NET_RAW).
 */
import { Endpoint } from '../../../net/address.ts';
import {
  AF_INET,
  AF_INET6,
  IPPROTO_RAW,
  MSG_DONTWAIT,
  SOCK_CLOEXEC,
  SOCK_RAW,
} from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';
import { writeAddress } from '../../../net/linux/mmsg-socket.ts';

const IPV4_BYTES = 20;
const IPV6_BYTES = 40;
const TCP_BYTES = 20;
const TCP_PROTOCOL = 6;
const HOPS = 64;
const RST_AND_ACK = 0x14;
const PACKET_AT = 64;

export interface Reset {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly sequence: number;
  readonly acknowledged: number;
}

export class ResetSender {
  readonly #libc: Libc;
  readonly #memory: Arena;
  /** By family; -1 where there can be none. */
  readonly #sockets = new Map<number, number>();

  constructor(libc: Libc) {
    this.#libc = libc;
    this.#memory = new Arena(libc, 4_096);
  }

  /** @returns whether the system took it */
  send(reset: Reset): boolean {
    const socket = this.#socket(reset.to.ip.isV4 ? AF_INET : AF_INET6);
    if (socket === -1) return false;
    const packet = resetPacket(reset);
    const { address, bytes } = this.#memory;
    bytes.set(packet, PACKET_AT);
    // The address of a raw socket has no port.
    const length = writeAddress(this.#memory, new Endpoint(reset.to.ip, 0));
    const sent = this.#libc.sendto(socket, address + PACKET_AT, packet.length, MSG_DONTWAIT, address, length);
    return sent === packet.length;
  }

  close(): void {
    for (const socket of this.#sockets.values()) if (socket !== -1) this.#libc.close(socket);
    this.#memory.free();
  }

  #socket(family: number): number {
    let socket = this.#sockets.get(family);
    if (socket === undefined) {
      socket = this.#libc.socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
      this.#sockets.set(family, socket);
    }
    return socket;
  }
}

/** An IP packet with nothing but a TCP header in it. */
export function resetPacket({ from, to, sequence, acknowledged }: Reset): Uint8Array {
  const { isV4 } = to.ip;
  const start = isV4 ? IPV4_BYTES : IPV6_BYTES;
  const packet = Buffer.alloc(start + TCP_BYTES);
  if (isV4) {
    packet[0] = 0x45;
    packet.writeUInt16BE(packet.length, 2);
    packet[8] = HOPS;
    packet[9] = TCP_PROTOCOL;
    packet.set(from.ip.bytes.subarray(12), 12);
    packet.set(to.ip.bytes.subarray(12), 16);
  } else {
    packet[0] = 0x60;
    packet.writeUInt16BE(TCP_BYTES, 4);
    packet[6] = TCP_PROTOCOL;
    packet[7] = HOPS;
    packet.set(from.ip.bytes, 8);
    packet.set(to.ip.bytes, 24);
  }
  packet.writeUInt16BE(from.port, start);
  packet.writeUInt16BE(to.port, start + 2);
  packet.writeUInt32BE(sequence, start + 4);
  packet.writeUInt32BE(acknowledged, start + 8);
  packet[start + 12] = 0x50;
  packet[start + 13] = RST_AND_ACK;
  // The pseudo-header's addresses stand right before the TCP header.
  let sum = TCP_PROTOCOL + TCP_BYTES;
  for (let at = isV4 ? 12 : 8; at < packet.length; at += 2) sum += packet.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~sum & 0xffff, start + 16);
  return packet;
}
