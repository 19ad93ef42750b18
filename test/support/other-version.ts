/**
 * Another version of tickrelay: the built one with some of its constants changed, in a directory of its own. What a relay of
 * one version leaves behind and one of another finds can so be tested with two real ones.
 */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BPF_PROG_INFO } from '../../net/linux/abi.ts';
import type { Bpf } from '../../relay/engines/kernel/loader.ts';

/** linux/bpf.h: enum bpf_cmd. */
const BPF_PROG_GET_FD_BY_ID = 13;

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface Change {
  /** Below dist. */
  readonly file: string;
  /** Occurs there exactly once. */
  readonly from: string;
  readonly to: string;
}

/** The records are as long, and mean something else. */
export const OTHER_LAYOUT: readonly Change[] = [
  { file: 'relay/engines/kernel/records.js', from: 'LAYOUT_VERSION = ', to: 'LAYOUT_VERSION = 1000 + ' },
];

/** @param directory where there is nothing yet. @returns the path of its command line, cli.js */
export function makeOtherVersion(directory: string, changes: readonly Change[]): string {
  cpSync(join(ROOT, 'dist'), join(directory, 'dist'), { recursive: true });
  cpSync(join(ROOT, 'package.json'), join(directory, 'package.json'));
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'));
  for (const { file, from, to } of changes) {
    const path = join(directory, 'dist', file);
    const parts = readFileSync(path, 'utf8').split(from);
    assert.equal(parts.length, 2, `${file} has "${from}" ${parts.length - 1} times`);
    writeFileSync(path, parts.join(to));
  }
  return join(directory, 'dist', 'cli.js');
}

/** The tag, a hash of its instructions, of the program with this identity. */
export function programTag(bpf: Bpf, id: number): string {
  const fd = bpf.run(BPF_PROG_GET_FD_BY_ID, (attributes) => attributes.u32(0, id));
  const tag = bpf.info(fd).getBigUint64(BPF_PROG_INFO.tag).toString(16);
  bpf.closeFd(fd);
  return tag;
}
