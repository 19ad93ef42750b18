/**
 * Large tables on large pages. A lookup in a table of a hundred megabytes misses the processor's cache, and with pages of 4 KiB
 * its list of pages, too: with pages of 2 MiB the second miss is gone (docs/benchmarking.md). Only for tables that are so
 * large, since one record then makes 2 MiB resident.
 */
import { MADV_HUGEPAGE } from './abi.ts';
import type { Libc } from './libc.ts';

export const HUGE_PAGE_BYTES = 2 * 1024 * 1024;

/** Smaller tables are within reach of the page list of today's processors, or nearly. */
export const WORTH_HUGE_PAGES_BYTES = 32 * 1024 * 1024;

/** @returns what asks for large pages for memory that nothing has been written to. A system without them goes on with small ones */
export function hugePages(libc: Pick<Libc, 'addressOf' | 'madvise'>): (memory: ArrayBuffer) => void {
  return (memory) => {
    if (memory.byteLength < WORTH_HUGE_PAGES_BYTES) return;
    const address = libc.addressOf(memory);
    const start = Math.ceil(address / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
    const end = Math.floor((address + memory.byteLength) / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
    libc.madvise(start, end - start, MADV_HUGEPAGE);
  };
}
