/**
 * One UDP address, several sockets: each client IP always reaches the same one, so that its sessions, pins and limits live
 * with one worker. A classic BPF program on the SO_REUSEPORT group computes the socket's number from the source address.
 *
 * Source: linux/filter.h, Documentation/networking/filter.rst; SKF_NET_OFF addresses the network header, whatever the
 * socket's family.
 */
import type { Endpoint, IpAddress } from '../address.ts';
import { RelayError } from '../relay-error.ts';
import { SO_ATTACH_REUSEPORT_CBPF, SOCK_FILTER, SOCK_FPROG, SOL_SOCKET } from './abi.ts';
import { Arena } from './arena.ts';
import { errnoName, type Libc } from './libc.ts';
import { bindUdp, readLocal } from './mmsg-socket.ts';

interface BindOptions {
  readonly local: Endpoint;
  readonly receiveBufferBytes: number;
}

type Instruction = readonly [code: number, jumpTrue: number, jumpFalse: number, k: number];

const LOAD_WORD = 0x20;
const LOAD_BYTE = 0x30;
const SHIFT_RIGHT = 0x74;
const MULTIPLY = 0x24;
const MODULO = 0x94;
const XOR_X = 0xac;
const COPY_TO_X = 0x07;
const JUMP_IF_EQUAL = 0x15;
const JUMP = 0x05;
const RETURN_A = 0x16;

const NETWORK = 0xfff0_0000;
const V4_SOURCE = NETWORK + 12;
const V6_SOURCE = NETWORK + 8;

/** 2^32 divided by the golden ratio: its products spread neighbouring addresses over the upper bits. */
const SPREAD = 0x9e37_79b1;

function steeringProgram(sockets: number): readonly Instruction[] {
  return [
    [LOAD_BYTE, 0, 0, NETWORK],
    [SHIFT_RIGHT, 0, 0, 4],
    [JUMP_IF_EQUAL, 2, 0, 6],
    [LOAD_WORD, 0, 0, V4_SOURCE],
    [JUMP, 0, 0, 10],
    [LOAD_WORD, 0, 0, V6_SOURCE],
    [COPY_TO_X, 0, 0, 0],
    [LOAD_WORD, 0, 0, V6_SOURCE + 4],
    [XOR_X, 0, 0, 0],
    [COPY_TO_X, 0, 0, 0],
    [LOAD_WORD, 0, 0, V6_SOURCE + 8],
    [XOR_X, 0, 0, 0],
    [COPY_TO_X, 0, 0, 0],
    [LOAD_WORD, 0, 0, V6_SOURCE + 12],
    [XOR_X, 0, 0, 0],
    [MULTIPLY, 0, 0, SPREAD],
    [SHIFT_RIGHT, 0, 0, 16],
    [MODULO, 0, 0, sockets],
    [RETURN_A, 0, 0, 0],
  ];
}

/** The number of the socket that the program steers a client to: the same sums as above. */
export function steeredTo({ words, isV4 }: IpAddress, sockets: number): number {
  const view = new DataView(words.buffer, words.byteOffset, words.byteLength);
  const word = (i: number): number => view.getUint32(4 * i);
  const mixed = isV4 ? word(3) : word(0) ^ word(1) ^ word(2) ^ word(3);
  return (Math.imul(mixed, SPREAD) >>> 16) % sockets;
}

/**
 * Binds `count` sockets to one address. With one socket nothing is shared and nothing steered.
 *
 * @returns their descriptors, in the order of their numbers, and the bound address
 * @throws RelayError TICKRELAY_ERR_BIND, also when a socket that would share the address has it
 */
export function bindGroup(
  libc: Libc,
  { local, receiveBufferBytes }: BindOptions,
  count: number,
): { fds: number[]; bound: Endpoint } {
  // SO_REUSEPORT would join another program's group without a word; a plain socket meets it as an error.
  const probe = bindUdp(libc, { local, receiveBufferBytes, tellPaths: true });
  const bound = readLocal(libc, probe);
  if (count === 1) return { fds: [probe], bound };
  libc.close(probe);
  const fds: number[] = [];
  try {
    for (let i = 0; i < count; i++)
      fds.push(bindUdp(libc, { local: bound, receiveBufferBytes, tellPaths: true }, { reusePort: true }));
    steer(libc, fds[0]!, count);
  } catch (error) {
    for (const fd of fds) libc.close(fd);
    throw error;
  }
  return { fds, bound };
}

/** Attaches the program to the group that the socket belongs to. */
function steer(libc: Libc, fd: number, sockets: number): void {
  const program = steeringProgram(sockets);
  const memory = new Arena(libc, 4096);
  const filter = 64;
  program.forEach(([code, jumpTrue, jumpFalse, k], i) => {
    const at = filter + i * SOCK_FILTER.size;
    memory.u16[(at + SOCK_FILTER.code) >> 1] = code;
    memory.bytes[at + SOCK_FILTER.jumpTrue] = jumpTrue;
    memory.bytes[at + SOCK_FILTER.jumpFalse] = jumpFalse;
    memory.u32[(at + SOCK_FILTER.k) >> 2] = k;
  });
  memory.u16[SOCK_FPROG.length >> 1] = program.length;
  memory.setPointer(SOCK_FPROG.filter, filter);
  const result = libc.setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, memory.address, SOCK_FPROG.size);
  const reason = errnoName(libc.errno());
  memory.free();
  if (result === -1)
    throw new RelayError('TICKRELAY_ERR_ENGINE', `can't steer clients to workers: ${reason}`);
}
