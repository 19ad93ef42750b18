/**
 * Whether the kernel engine can run here, asked in the order in which an operator would mend it: the library, the kernel's
 * version, the capabilities, and at last a map made and a link-less program loaded, since containers and lockdown may forbid
 * bpf(2) whatever the capabilities are.
 */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { BPF_MAP_TYPE_ARRAY } from '../../../net/linux/abi.ts';
import { type Libc, loadLibc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { Bpf } from './loader.ts';

/** The first kernel that has tcx links, by which the programs are attached. */
const LEAST_KERNEL = { major: 6, minor: 6 } as const;

/** linux/capability.h */
const CAP_NET_ADMIN = 12;
const CAP_SYS_ADMIN = 21;
const CAP_PERFMON = 38;
const CAP_BPF = 39;

/** `r0 = 0; exit`: the smallest program. */
const EMPTY_PROGRAM = Uint8Array.from([0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);

/** One clause with its remedy, for the log and for errors. @returns why not, or undefined when it can */
export function whyUnavailable(): string | undefined {
  const loaded = loadLibc();
  if ('unavailable' in loaded) return loaded.unavailable;
  return whyOldKernel(release()) ?? whyNoCapability(effectiveCapabilities()) ?? whyRefused(loaded.libc);
}

/** @param version as `uname -r` has it */
export function whyOldKernel(version: string): string | undefined {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const { major: leastMajor, minor: leastMinor } = LEAST_KERNEL;
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return undefined;
  return `it needs Linux ${leastMajor}.${leastMinor} or later, this is ${version}`;
}

/** @param effective the set as a number, bit by bit */
export function whyNoCapability(effective: bigint): string | undefined {
  const has = (capability: number): boolean => ((effective >> BigInt(capability)) & 1n) === 1n;
  // CAP_SYS_ADMIN stands for the first two. CAP_PERFMON: the verifier then takes offsets into packets that are variable.
  const isAdmin = has(CAP_SYS_ADMIN);
  const missing = [
    ...(isAdmin || has(CAP_BPF) ? [] : ['CAP_BPF']),
    ...(isAdmin || has(CAP_PERFMON) ? [] : ['CAP_PERFMON']),
    ...(has(CAP_NET_ADMIN) ? [] : ['CAP_NET_ADMIN']),
  ].join(', ');
  if (missing === '') return undefined;
  return `it needs ${missing}; run as root, or give the process the capabilities (setcap, AmbientCapabilities=, --cap-add)`;
}

/** The capabilities of this process, from /proc. */
function effectiveCapabilities(): bigint {
  const line = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'));
  return BigInt(`0x${line?.[1] ?? '0'}`);
}

function whyRefused(libc: Libc): string | undefined {
  const bpf = new Bpf(libc);
  try {
    const map = bpf.createMap({
      name: 'probe',
      type: BPF_MAP_TYPE_ARRAY,
      keySize: 4,
      valueSize: 4,
      maxEntries: 1,
    });
    bpf.closeFd(map);
    bpf.closeFd(bpf.loadProgram({ name: 'probe', instructions: EMPTY_PROGRAM }));
    return undefined;
  } catch (error) {
    if (!(error instanceof RelayError)) throw error;
    return `the system refuses bpf(2) (${error.message}); containers need a seccomp profile that allows it`;
  } finally {
    bpf.close();
  }
}
