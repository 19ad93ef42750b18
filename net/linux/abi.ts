/**
 * What the Linux kernel's interface looks like in memory: structure layouts, constants, system call numbers. Everything that
 * depends on the architecture is here, for x86-64 and arm64, both 64-bit and little-endian. glibc and musl agree on all
 * of it in memory, since a little-endian 32-bit field with zero padding reads as the 64-bit one.
 *
 * Sources: the kernel's uapi headers as named at each entry.
 */

/** linux/in.h: struct sockaddr_in. Port and address are big-endian. */
export const SOCKADDR_IN = { size: 16, family: 0, port: 2, address: 4 } as const;

/** linux/in6.h: struct sockaddr_in6. */
export const SOCKADDR_IN6 = { size: 28, family: 0, port: 2, address: 8, scope: 24 } as const;

/** linux/uio.h: struct iovec. */
export const IOVEC = { size: 16, base: 0, length: 8 } as const;

/** linux/socket.h: struct msghdr, then msg_len: struct mmsghdr. */
export const MMSGHDR = {
  size: 64,
  name: 0,
  nameLength: 8,
  iov: 16,
  iovLength: 24,
  control: 32,
  controlLength: 40,
  flags: 48,
  length: 56,
} as const;

/** linux/socket.h: struct cmsghdr on 64 bits; the data follows. */
export const CMSGHDR = { size: 16, length: 0, level: 8, type: 12, data: 16 } as const;

/** linux/in.h: struct in_pktinfo; linux/ipv6.h: struct in6_pktinfo. */
export const IN_PKTINFO = { size: 12, interface: 0, local: 4 } as const;
export const IN6_PKTINFO = { size: 20, local: 0, interface: 16 } as const;

/** linux/errqueue.h: struct sock_extended_err. */
export const SOCK_EXTENDED_ERR = { errno: 0, origin: 4 } as const;
export const SO_EE_ORIGIN_ICMP = 2;
export const SO_EE_ORIGIN_ICMP6 = 3;

/** linux/eventpoll.h: struct epoll_event, packed on x86-64 only. */
export const EPOLL_EVENT =
  process.arch === 'x64'
    ? ({ size: 12, events: 0, data: 4 } as const)
    : ({ size: 16, events: 0, data: 8 } as const);

/** linux/filter.h: struct sock_filter and struct sock_fprog. */
export const SOCK_FILTER = { size: 8, code: 0, jumpTrue: 2, jumpFalse: 3, k: 4 } as const;
export const SOCK_FPROG = { size: 16, length: 0, filter: 8 } as const;

/** linux/resource.h: struct rlimit64. */
export const RLIMIT = { size: 16, current: 0, maximum: 8 } as const;
export const RLIMIT_NOFILE = 7;

/** bits/socket.h */
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_DGRAM = 2;
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x8_0000;
export const MSG_DONTWAIT = 0x40;
export const MSG_ERRQUEUE = 0x2000;
export const MSG_NOSIGNAL = 0x4000;

/** asm-generic/socket.h */
export const SOL_SOCKET = 1;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_REUSEPORT = 15;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const SO_RXQ_OVFL = 40;
export const SO_ATTACH_REUSEPORT_CBPF = 51;

/** linux/in.h, linux/in6.h */
export const IPPROTO_IP = 0;
export const IP_PKTINFO = 8;
export const IP_RECVERR = 11;
export const IPPROTO_IPV6 = 41;
export const IPV6_RECVERR = 25;
export const IPV6_V6ONLY = 26;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;

/** linux/eventpoll.h */
export const EPOLLIN = 1;
export const EPOLLET = 0x8000_0000;
export const EPOLLERR = 8;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CLOEXEC = 0x8_0000;

/** linux/eventfd.h */
export const EFD_NONBLOCK = 0x800;
export const EFD_CLOEXEC = 0x8_0000;

/** asm-generic/mman-common.h */
export const PROT_READ_WRITE = 3;
export const MAP_PRIVATE_ANONYMOUS = 0x22;

/** asm-generic/unistd.h and asm/unistd_64.h: the same on both architectures, as all calls since 2019 are. */
export const SYS_EPOLL_PWAIT2 = 441;

/** asm-generic/errno.h: the few that code looks at. */
export const EINTR = 4;
export const EAGAIN = 11;
export const EMSGSIZE = 90;
