/**
 * A BPF file system of a test's own: what is pinned in it, and with that every program that only a pin holds, goes with it, or with
 * the last relay that still runs on it.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class BpfFileSystem {
  readonly path = mkdtempSync(join(tmpdir(), 'tickrelay-bpffs-'));

  constructor() {
    execFileSync('mount', ['-t', 'bpf', 'bpf', this.path]);
  }

  close(): void {
    execFileSync('umount', ['--lazy', this.path]);
    rmdirSync(this.path);
  }
}
