/** Cases that call bpf(2) themselves, with nothing attached. */
import assert from 'node:assert/strict';
import { loadLibc } from '../../net/linux/libc.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { closing, whereAvailable } from './packet-rig.ts';

/** Describes them with a `Bpf` that is open until their end; where the kernel engine can't run, a skipped test that says why. */
export function whereBpf(describeCases: (bpf: Bpf) => void): void {
  whereAvailable(() => {
    const loaded = loadLibc();
    assert('libc' in loaded);
    describeCases(closing(new Bpf(loaded.libc)));
  });
}
