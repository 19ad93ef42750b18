/** A stage for the kernel engine: a BPF file system of the test's own, and bpf(2) to look at what a relay has there. */
import assert from 'node:assert/strict';
import { loadLibc } from '../../net/linux/libc.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { BpfFileSystem } from './bpffs.ts';
import { Stage } from './stage.ts';

export class KernelStage extends Stage {
  readonly bpffs = this.closing(new BpfFileSystem());
  readonly bpf = this.closing(openBpf());
}

function openBpf(): Bpf {
  const loaded = loadLibc();
  assert('libc' in loaded);
  return new Bpf(loaded.libc);
}
