/**
 * The kernel functions that the programs call, and the structures and constants of their world. Sources: linux/bpf.h and
 * the headers named below.
 */
import { struct, U16, U32 } from './struct.ts';

/** enum bpf_func_id */
export const HELPER = {
  mapLookup: 1,
  mapUpdate: 2,
  mapDelete: 3,
  ktimeGetNs: 5,
  skbStoreBytes: 9,
  l4CsumReplace: 11,
  tailCall: 12,
  redirect: 23,
  csumDiff: 28,
  skbChangeTail: 38,
  skbPullData: 39,
  fibLookup: 69,
  mapPush: 87,
  mapPop: 88,
  redirectNeigh: 152,
  checkMtu: 163,
  loop: 181,
} as const;

/** struct __sk_buff, as far as it is used. */
export const SKB = struct({
  len: U32,
  packetType: U32,
  mark: U32,
  queueMapping: U32,
  protocol: U32,
  vlanPresent: U32,
  vlanTci: U32,
  vlanProto: U32,
  priority: U32,
  ingressInterface: U32,
  interface: U32,
  tcIndex: U32,
  cb: 5 * U32,
  hash: U32,
  tcClassid: U32,
  data: U32,
  dataEnd: U32,
  napiId: U32,
  /** Socket addresses, flow keys, time stamp, wire length: of no use here. */
  others: 76,
  gsoSegs: U32,
});

/** struct bpf_fib_lookup; the union fields as this project uses them. */
export const FIB = struct({
  family: 1,
  l4Protocol: 1,
  sport: U16,
  dport: U16,
  totalLength: U16,
  interface: U32,
  /** IPv4: type of service; IPv6: flow label. */
  trafficClass: U32,
  source: 4 * U32,
  destination: 4 * U32,
  vlan: U32,
  macs: 12,
});

/** What a tcx program says: go on with the next program, or drop. */
export const TCX_NEXT = -1;
export const TCX_DROP = 2;

/** Flag of redirect: the packet arrives at the interface, instead of leaving by it. */
export const REDIRECT_INGRESS = 1;

/** linux/if_packet.h: the datagram is for this host's link address. */
export const PACKET_HOST = 0;

/** net/net_namespace.h: LOOPBACK_IFINDEX, in every namespace. */
export const LOOPBACK_INTERFACE = 1;

export const AF_INET = 2;
export const AF_INET6 = 10;

/** BPF_FIB_LKUP_RET_SUCCESS, and BPF_FIB_LKUP_RET_NO_NEIGH: the interface is known, the neighbour's link address is not yet. */
export const FIB_SUCCESS = 0;
export const FIB_NO_NEIGHBOUR = 7;
/** BPF_FIB_LKUP_RET_NOT_FWDED: the destination is this host's own. */
export const FIB_NOT_FORWARDED = 4;
/** BPF_FIB_LKUP_RET_FWD_DISABLED: the interface does not forward, so what it lets in is for this host. */
export const FIB_FORWARDING_DISABLED = 5;

/** Flags of l4CsumReplace. */
export const CSUM_PSEUDO_HEADER = 1 << 4;
export const CSUM_MARK_MANGLED_0 = 1 << 5;
export const CSUM_IPV6 = 1 << 7;
