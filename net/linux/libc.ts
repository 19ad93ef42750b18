/**
 * The C library's calls that batched sockets and the kernel engine need, through koffi, an optional dependency with prebuilt binaries. Where
 * koffi is absent or does not load, `loadLibc` says why, and the portable socket serves.
 *
 * Pointers are plain numbers: user-space addresses are below 2^47, so a double holds them, and a number costs a call
 * less than a BigInt. Each function returns what C returns; -1 means failure and `errno()` the reason.
 */
import { createRequire } from 'node:module';
import { getSystemErrorMap } from 'node:util';
import type * as Koffi from 'koffi';

export interface Libc {
  readonly socket: (domain: number, type: number, protocol: number) => number;
  readonly bind: (fd: number, address: number, length: number) => number;
  readonly connect: (fd: number, address: number, length: number) => number;
  readonly listen: (fd: number, backlog: number) => number;
  readonly accept4: (fd: number, address: number, length: number, flags: number) => number;
  readonly recv: (fd: number, buffer: number, length: number, flags: number) => number;
  readonly send: (fd: number, buffer: number, length: number, flags: number) => number;
  readonly shutdown: (fd: number, how: number) => number;
  readonly getsockname: (fd: number, address: number, length: number) => number;
  readonly setsockopt: (fd: number, level: number, option: number, value: number, length: number) => number;
  readonly getsockopt: (fd: number, level: number, option: number, value: number, length: number) => number;
  readonly close: (fd: number) => number;
  readonly recvmmsg: (fd: number, messages: number, count: number, flags: number, timeout: number) => number;
  readonly sendmmsg: (fd: number, messages: number, count: number, flags: number) => number;
  readonly sendto: (
    fd: number,
    buffer: number,
    length: number,
    flags: number,
    address: number,
    addressLength: number,
  ) => number;
  readonly epoll_create1: (flags: number) => number;
  readonly epoll_ctl: (epoll: number, operation: number, fd: number, event: number) => number;
  readonly epoll_wait: (epoll: number, events: number, count: number, timeoutMs: number) => number;
  readonly eventfd: (initial: number, flags: number) => number;
  readonly read: (fd: number, buffer: number, length: number) => number;
  readonly write: (fd: number, buffer: number, length: number) => number;
  readonly mmap: (
    at: number,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ) => number;
  readonly munmap: (at: number, length: number) => number;
  readonly madvise: (at: number, length: number, advice: number) => number;
  readonly prlimit: (process: number, resource: number, next: number, before: number) => number;
  readonly usleep: (microseconds: number) => number;
  /** epoll_pwait2(2) by number: like epoll_wait, with a timespec. Linux >= 5.11. */
  readonly epoll_pwait2: (
    number: number,
    epoll: number,
    events: number,
    count: number,
    timespec: number,
    sigmask: number,
    sigsetSize: number,
  ) => number;
  /** io_uring_setup(2) and io_uring_enter(2), by number: the GNU C library has no wrapper. */
  readonly io_uring_setup: (number: number, entries: number, params: number) => number;
  readonly io_uring_enter: (
    number: number,
    ring: number,
    toSubmit: number,
    toComplete: number,
    flags: number,
    argument: number,
    size: number,
  ) => number;
  /** bpf(2), by number: C libraries have no wrapper. */
  readonly bpf: (number: number, command: number, attributes: number, size: number) => number;
  readonly ioctl: (fd: number, request: number, argument: number) => number;
  readonly mount: (source: string, target: string, type: string, flags: number, data: number) => number;
  /** The interface's number, or 0. */
  readonly if_nametoindex: (name: string) => number;
  readonly flock: (fd: number, operation: number) => number;
  /** The reason of the last failure, right after it. */
  readonly errno: () => number;
  /** An ArrayBuffer over native memory. */
  readonly view: (pointer: number, length: number) => ArrayBuffer;
  /** Where an ArrayBuffer that nobody moves or frees meanwhile lies. */
  readonly addressOf: (memory: ArrayBuffer) => number;
}

const PROTOTYPES = {
  socket: 'int socket(int, int, int)',
  bind: 'int bind(int, int64_t, uint32_t)',
  connect: 'int connect(int, int64_t, uint32_t)',
  listen: 'int listen(int, int)',
  accept4: 'int accept4(int, int64_t, int64_t, int)',
  recv: 'int64_t recv(int, int64_t, size_t, int)',
  send: 'int64_t send(int, int64_t, size_t, int)',
  shutdown: 'int shutdown(int, int)',
  getsockname: 'int getsockname(int, int64_t, int64_t)',
  setsockopt: 'int setsockopt(int, int, int, int64_t, uint32_t)',
  getsockopt: 'int getsockopt(int, int, int, int64_t, int64_t)',
  close: 'int close(int)',
  recvmmsg: 'int recvmmsg(int, int64_t, uint32_t, int, int64_t)',
  sendmmsg: 'int sendmmsg(int, int64_t, uint32_t, int)',
  sendto: 'int64_t sendto(int, int64_t, size_t, int, int64_t, uint32_t)',
  epoll_create1: 'int epoll_create1(int)',
  epoll_ctl: 'int epoll_ctl(int, int, int, int64_t)',
  epoll_wait: 'int epoll_wait(int, int64_t, int, int)',
  eventfd: 'int eventfd(uint32_t, int)',
  read: 'int64_t read(int, int64_t, size_t)',
  write: 'int64_t write(int, int64_t, size_t)',
  mmap: 'int64_t mmap(int64_t, size_t, int, int, int, int64_t)',
  munmap: 'int munmap(int64_t, size_t)',
  madvise: 'int madvise(int64_t, size_t, int)',
  prlimit: 'int prlimit(int, int, int64_t, int64_t)',
  usleep: 'int usleep(uint32_t)',
  epoll_pwait2: 'int64_t syscall(int64_t, int, int64_t, int, int64_t, int64_t, size_t)',
  io_uring_setup: 'int64_t syscall(int64_t, uint32_t, int64_t)',
  io_uring_enter: 'int64_t syscall(int64_t, int, uint32_t, uint32_t, uint32_t, int64_t, size_t)',
  bpf: 'int64_t syscall(int64_t, int, int64_t, uint32_t)',
  ioctl: 'int ioctl(int, uint64_t, int64_t)',
  mount: 'int mount(const char *, const char *, const char *, uint64_t, int64_t)',
  if_nametoindex: 'uint32_t if_nametoindex(const char *)',
  flock: 'int flock(int, int)',
} as const;

type Loaded = { readonly libc: Libc } | { readonly unavailable: string };

let loaded: Loaded | undefined;

/** Loads the library once. */
export function loadLibc(): Loaded {
  loaded ??= load();
  return loaded;
}

function load(): Loaded {
  if (process.platform !== 'linux')
    return { unavailable: `batched system calls need Linux, this is ${process.platform}` };
  if (process.arch !== 'x64' && process.arch !== 'arm64') {
    return { unavailable: `batched system calls need x64 or arm64, this is ${process.arch}` };
  }
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof Koffi;
    const library = koffi.load(null);
    const functions = Object.fromEntries(
      Object.entries(PROTOTYPES).map(([name, prototype]) => [name, library.func(prototype) as unknown]),
    );
    const view = (pointer: number, length: number): ArrayBuffer => koffi.view(BigInt(pointer), length);
    const addressOf = (memory: ArrayBuffer): number => Number(koffi.address(new Uint8Array(memory)));
    return { libc: { ...functions, errno: () => koffi.errno(), view, addressOf } as Libc };
  } catch (error) {
    return {
      unavailable: `koffi does not load: ${error instanceof Error ? error.message.split('\n')[0]! : String(error)}`,
    };
  }
}

/** The name and meaning of an errno, such as `EADDRINUSE`. */
export function errnoName(errno: number): string {
  return getSystemErrorMap().get(-errno)?.[0] ?? `errno ${errno}`;
}
