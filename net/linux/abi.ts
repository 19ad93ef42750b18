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
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x8_0000;
export const MSG_PEEK = 0x2;
export const MSG_DONTWAIT = 0x40;
export const MSG_ERRQUEUE = 0x2000;
export const MSG_MORE = 0x8000;
export const MSG_NOSIGNAL = 0x4000;
export const SHUT_WR = 1;

/** linux/if.h: struct ifreq, as far as it is read; linux/sockios.h. */
export const IFREQ = { name: 0, hardwareFamily: 16 } as const;
export const SIOCGIFHWADDR = 0x8927;

/** asm-generic/socket.h */
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_ERROR = 4;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_KEEPALIVE = 9;
export const SO_LINGER = 13;
export const SO_REUSEPORT = 15;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const SO_RXQ_OVFL = 40;
export const SO_ATTACH_REUSEPORT_CBPF = 51;

/** linux/in.h, linux/in6.h */
export const IPPROTO_IP = 0;
export const IP_PKTINFO = 8;
export const IP_MTU_DISCOVER = 10;
export const IP_PMTUDISC_WANT = 1;
export const IP_PMTUDISC_DO = 2;
export const IP_RECVERR = 11;
export const IPPROTO_IPV6 = 41;
/** A raw socket of this protocol sends what has its own IP header. */
export const IPPROTO_RAW = 255;
export const IPV6_RECVERR = 25;
export const IPV6_V6ONLY = 26;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;

/** linux/tcp.h */
export const IPPROTO_TCP = 6;
export const TCP_NODELAY = 1;
export const TCP_KEEPIDLE = 4;
export const TCP_KEEPINTVL = 5;
export const TCP_KEEPCNT = 6;

/** linux/eventpoll.h */
export const EPOLLIN = 1;
export const EPOLLOUT = 4;
export const EPOLLET = 0x8000_0000;
export const EPOLLERR = 8;
export const EPOLLHUP = 0x10;
export const EPOLLRDHUP = 0x2000;
export const EPOLL_CTL_ADD = 1;
export const EPOLL_CTL_DEL = 2;
export const EPOLL_CLOEXEC = 0x8_0000;

/** linux/eventfd.h */
export const EFD_NONBLOCK = 0x800;
export const EFD_CLOEXEC = 0x8_0000;

/** asm-generic/mman-common.h */
export const PROT_READ_WRITE = 3;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE_ANONYMOUS = 0x22;
export const MAP_POPULATE = 0x8000;
export const MADV_HUGEPAGE = 14;

/** asm-generic/unistd.h and asm/unistd_64.h: the same on both architectures, as all calls since 2019 are. */
export const SYS_EPOLL_PWAIT2 = 441;
export const SYS_IO_URING_SETUP = 425;
export const SYS_IO_URING_ENTER = 426;

/** linux/io_uring.h: struct io_uring_params, with the fields of its struct io_sqring_offsets and io_cqring_offsets. */
export const IO_URING_PARAMS = {
  size: 120,
  submissions: 0,
  completions: 4,
  flags: 8,
  features: 20,
  submissionHead: 40,
  submissionTail: 44,
  submissionMask: 48,
  submissionArray: 64,
  completionHead: 80,
  completionTail: 84,
  completionMask: 88,
  completionEntries: 100,
} as const;

/** linux/io_uring.h: struct io_uring_sqe, as far as it is written, and struct io_uring_cqe. */
export const IO_URING_SQE = {
  size: 64,
  opcode: 0,
  flags: 1,
  fd: 4,
  address: 16,
  length: 24,
  messageFlags: 28,
  userData: 32,
} as const;
export const IO_URING_CQE = { size: 16, userData: 0, result: 8 } as const;

/** linux/io_uring.h: flags and numbers. */
export const IORING_SETUP_SUBMIT_ALL = 1 << 7;
export const IORING_SETUP_SINGLE_ISSUER = 1 << 12;
export const IORING_SETUP_DEFER_TASKRUN = 1 << 13;
export const IORING_FEAT_SINGLE_MMAP = 1 << 0;
export const IORING_FEAT_CQE_SKIP = 1 << 11;
export const IORING_OFF_SQ_RING = 0;
export const IORING_OFF_SQES = 0x1000_0000;
export const IORING_OP_SENDMSG = 9;
export const IORING_OP_RECVMSG = 10;
export const IOSQE_CQE_SKIP_SUCCESS = 1 << 6;

/** asm-generic/fcntl.h: operations of flock(2). */
export const LOCK_EX = 2;
export const LOCK_NB = 4;

/** asm-generic/errno.h: the few that code looks at. */
export const EINTR = 4;
export const EAGAIN = 11;
export const ECONNABORTED = 103;
export const EINPROGRESS = 115;
export const EMSGSIZE = 90;
export const ENOENT = 2;
export const EEXIST = 17;
export const ENOSPC = 28;

/** asm/unistd_64.h, asm-generic/unistd.h */
export const SYS_BPF = process.arch === 'x64' ? 321 : 280;

/** linux/bpf.h: enum bpf_cmd. */
export const BPF_MAP_CREATE = 0;
export const BPF_MAP_LOOKUP_ELEM = 1;
export const BPF_MAP_UPDATE_ELEM = 2;
export const BPF_MAP_DELETE_ELEM = 3;
export const BPF_PROG_LOAD = 5;
export const BPF_OBJ_PIN = 6;
export const BPF_OBJ_GET = 7;
export const BPF_PROG_TEST_RUN = 10;
export const BPF_OBJ_GET_INFO_BY_FD = 15;
export const BPF_PROG_QUERY = 16;
export const BPF_BTF_LOAD = 18;
export const BPF_MAP_LOOKUP_BATCH = 24;
export const BPF_LINK_CREATE = 28;
export const BPF_LINK_UPDATE = 29;
export const BPF_LINK_DETACH = 34;

/** linux/bpf.h: union bpf_attr, the part of each command. */
export const BPF_ATTR_SIZE = 152;
export const BPF_MAP_ATTR = {
  type: 0,
  keySize: 4,
  valueSize: 8,
  maxEntries: 12,
  flags: 16,
  innerMap: 20,
  name: 28,
} as const;
export const BPF_ELEMENT_ATTR = { map: 0, key: 8, value: 16, flags: 24 } as const;
export const BPF_BATCH_ATTR = { in: 0, out: 8, keys: 16, values: 24, count: 32, map: 36 } as const;
export const BPF_PROG_ATTR = {
  type: 0,
  count: 4,
  instructions: 8,
  license: 16,
  logLevel: 24,
  logSize: 28,
  log: 32,
  name: 48,
  attachType: 68,
  btf: 72,
  functionInfoSize: 76,
  functionInfo: 80,
  functionCount: 88,
} as const;
export const BPF_BTF_ATTR = { btf: 0, size: 16 } as const;
export const BPF_OBJ_ATTR = { path: 0, fd: 8 } as const;
export const BPF_QUERY_ATTR = {
  interface: 0,
  attachType: 4,
  programIds: 16,
  count: 24,
  linkIds: 40,
} as const;
export const BPF_INFO_ATTR = { fd: 0, size: 4, info: 8 } as const;
export const BPF_TEST_ATTR = {
  program: 0,
  returned: 4,
  sizeIn: 8,
  sizeOut: 12,
  dataIn: 16,
  dataOut: 24,
  repeat: 32,
  durationNs: 36,
  contextSizeIn: 40,
  contextSizeOut: 44,
  contextIn: 48,
  contextOut: 56,
} as const;
export const BPF_LINK_ATTR = { program: 0, interface: 4, attachType: 8, flags: 12 } as const;
/** Without a program or link to stand before: before all. */
export const BPF_F_BEFORE = 1 << 3;
export const BPF_LINK_UPDATE_ATTR = { link: 0, program: 4, flags: 8 } as const;

/** linux/bpf.h: struct bpf_map_info, bpf_prog_info and bpf_link_info, as far as they are read. */
export const BPF_INFO_SIZE = 256;
export const BPF_MAP_INFO = {
  type: 0,
  id: 4,
  keySize: 8,
  valueSize: 12,
  maxEntries: 16,
  flags: 20,
} as const;
export const BPF_PROG_INFO = { id: 4, tag: 8, verifiedInstructions: 216 } as const;
export const BPF_LINK_INFO = { id: 4, program: 8, interface: 16, attachType: 20 } as const;

/** linux/bpf.h: enum bpf_map_type, bpf_prog_type, bpf_attach_type. */
export const BPF_MAP_TYPE_HASH = 1;
export const BPF_MAP_TYPE_ARRAY = 2;
export const BPF_MAP_TYPE_PROG_ARRAY = 3;
export const BPF_MAP_TYPE_PERCPU_ARRAY = 6;
export const BPF_MAP_TYPE_LRU_HASH = 9;
export const BPF_MAP_TYPE_ARRAY_OF_MAPS = 12;
export const BPF_MAP_TYPE_QUEUE = 22;
export const BPF_PROG_TYPE_SCHED_CLS = 3;
export const BPF_TCX_INGRESS = 46;
export const BPF_TCX_EGRESS = 47;

/** linux/bpf.h: flags of map creation and of element updates. */
export const BPF_F_NO_PREALLOC = 1;
export const BPF_F_MMAPABLE = 1 << 10;
export const BPF_ANY = 0;
export const BPF_NOEXIST = 1;
export const BPF_EXIST = 2;

/** linux/bpf.h: the longest name of a map or program, without its closing zero. */
export const BPF_NAME_LENGTH = 15;

/** linux/magic.h: what statfs(2) says of a BPF file system. */
export const BPF_FS_MAGIC = 0xcafe_4a11;
