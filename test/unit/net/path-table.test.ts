import { afterEach, expect, test } from 'vitest';
import { IpAddress } from '../../../net/address.ts';
import { MAX_PATH } from '../../../net/datagram-socket.ts';
import { Arena } from '../../../net/linux/arena.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { PATH_ARENA_BYTES, PathTable } from '../../../net/linux/path-table.ts';

const loaded = loadLibc();

if ('unavailable' in loaded) {
  test.skip(`skipped: ${loaded.unavailable}`, () => undefined);
} else {
  const { libc } = loaded;
  const arenas: Arena[] = [];
  afterEach(() => {
    for (const arena of arenas.splice(0)) arena.free();
  });

  const make = (): { table: PathTable; arena: Arena } => {
    const arena = new Arena(libc, PATH_ARENA_BYTES);
    arenas.push(arena);
    return { table: new PathTable(arena), arena };
  };
  const path = (address: string, index = 0): Uint32Array =>
    Uint32Array.of(...IpAddress.parse(address).words, index);

  test('each address and interface has a number of its own, always the same', () => {
    const { table } = make();
    const paths = [path('10.0.0.1'), path('10.0.0.2'), path('fe80::1', 2), path('fe80::1', 3), path('::', 2)];
    const numbers = paths.map((words) => table.number(words));
    expect(numbers).toEqual([1, 2, 3, 4, 5]);
    expect(paths.toReversed().map((words) => table.number(words))).toEqual([5, 4, 3, 2, 1]);
    expect(table.number(new Uint32Array(5))).toBe(0);
  });

  test('when the numbers are used up, further addresses have none, and the others keep theirs', () => {
    const { table } = make();
    const at = (i: number): Uint32Array => path(`10.1.${i >> 8}.${i & 255}`);
    for (let i = 0; i < MAX_PATH; i++) expect(table.number(at(i))).toBe(i + 1);
    expect([table.number(at(MAX_PATH)), table.number(at(MAX_PATH + 1))]).toEqual([0, 0]);
    for (let i = 0; i < MAX_PATH; i++) expect(table.number(at(i))).toBe(i + 1);
  });

  test('IPv4 paths are an in_pktinfo, IPv6 paths an in6_pktinfo', () => {
    const { table, arena } = make();
    const control = (words: Uint32Array): string => {
      const number = table.number(words);
      const at = table.control(number);
      return Buffer.from(arena.bytes.slice(at, at + table.controlLength(number))).toString('hex');
    };
    // Length 28, level IPPROTO_IP, type IP_PKTINFO; interface, local address, unused, padding.
    expect(control(path('10.0.0.1'))).toBe(
      `1c000000000000000000000008000000000000000a000001${'00'.repeat(8)}`,
    );
    // Length 36, level IPPROTO_IPV6, type IPV6_PKTINFO; local address, interface, padding.
    expect(control(path('fe80::1', 2))).toBe(
      `24000000000000002900000032000000fe80${'00'.repeat(13)}010200000000000000`,
    );
  });
}
