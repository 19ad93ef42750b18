import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { HUGE_PAGE_BYTES, hugePages, WORTH_HUGE_PAGES_BYTES } from '../../../net/linux/huge-pages.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { Router } from '../../../relay/core/router.ts';

const loaded = loadLibc();

/** VmFlags of the mapping of this process in which the address lies (proc_pid_smaps(5)). */
function flagsAt(address: number): string[] {
  const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const mapping = mappings.find((text) => {
    const [first, end] = /^([0-9a-f]+)-([0-9a-f]+)/
      .exec(text)!
      .slice(1)
      .map((hex) => parseInt(hex, 16));
    return first! <= address && address < end!;
  });
  return (
    /^VmFlags: (.*)$/m
      .exec(mapping ?? '')?.[1]
      ?.trim()
      .split(' ') ?? []
  );
}

test('a large table asks for large pages, all of it but its ends', ({ skip }) => {
  if ('unavailable' in loaded) return skip(loaded.unavailable);
  if (!existsSync('/sys/kernel/mm/transparent_hugepage')) return skip('this kernel has no large pages');
  const memory = new ArrayBuffer(WORTH_HUGE_PAGES_BYTES);
  const address = loaded.libc.addressOf(memory);
  hugePages(loaded.libc)(memory);
  expect(flagsAt(address + HUGE_PAGE_BYTES)).toContain('hg');
  expect(flagsAt(address + memory.byteLength - 2 * HUGE_PAGE_BYTES)).toContain('hg');
  expect(flagsAt(address)).not.toEqual([]);
});

test('what is asked for lies within the table, on the borders of large pages', () => {
  const asked: number[][] = [];
  const prepare = hugePages({
    addressOf: () => 5 * HUGE_PAGE_BYTES + 16,
    madvise: (...range) => asked.push(range),
  });
  prepare(new ArrayBuffer(WORTH_HUGE_PAGES_BYTES));
  expect(asked).toEqual([[6 * HUGE_PAGE_BYTES, WORTH_HUGE_PAGES_BYTES - HUGE_PAGE_BYTES, 14]]);
});

test('a small table leaves its pages small', () => {
  const prepare = hugePages({
    addressOf: () => expect.unreachable(),
    madvise: () => expect.unreachable(),
  });
  prepare(new ArrayBuffer(WORTH_HUGE_PAGES_BYTES - 1));
});

test('a router shows the memory of its tables before it writes to it', () => {
  const shown: number[] = [];
  const router = new Router({
    maxSessions: 100,
    hashSeed: 0,
    tableSeed: 1,
    onDetach: () => undefined,
    onRenumber: () => undefined,
    prepareMemory: (memory) => {
      expect(new Uint8Array(memory).every((byte) => byte === 0)).toBe(true);
      shown.push(memory.byteLength);
    },
  });
  expect(shown).toEqual([router.sessions.records.words.byteLength, router.pins.records.words.byteLength]);
});
