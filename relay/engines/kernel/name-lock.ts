/**
 * One relay of a name at a time: its maps and links have one owner. The lock is an abstract Unix address, which the system
 * lets go of with the process, however that ends.
 */
import { AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCKADDR_UN } from '../../../net/linux/abi.ts';
import { Arena } from '../../../net/linux/arena.ts';
import type { Libc } from '../../../net/linux/libc.ts';

/** @param scope what the name is unique in; @returns the lock, or undefined when another process has it */
export function takeName(libc: Libc, name: string, scope: string): { release(): void } | undefined {
  const memory = new Arena(libc, 4_096);
  const socket = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const abstract = Buffer.from(`\0tickrelay:${scope}:${name}`).subarray(
    0,
    SOCKADDR_UN.size - SOCKADDR_UN.path,
  );
  memory.u16[SOCKADDR_UN.family >> 1] = AF_UNIX;
  memory.bytes.set(abstract, SOCKADDR_UN.path);
  const bound = libc.bind(socket, memory.address, SOCKADDR_UN.path + abstract.length);
  memory.free();
  if (bound === 0) return { release: () => void libc.close(socket) };
  libc.close(socket);
  return undefined;
}
