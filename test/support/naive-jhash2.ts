/** jhash2 in arbitrary-precision integers, cut to 32 bits after each step: slow, and obvious. */
const u32 = (x: bigint): bigint => BigInt.asUintN(32, x);
const rotateLeft = (x: bigint, bits: bigint): bigint => u32(x << bits) | (x >> (32n - bits));

type State = [a: bigint, b: bigint, c: bigint];

function mix([a, b, c]: State): State {
  for (const [first, second, third] of [
    [4n, 6n, 8n],
    [16n, 19n, 4n],
  ] as const) {
    a = u32(a - c) ^ rotateLeft(c, first);
    c = u32(c + b);
    b = u32(b - a) ^ rotateLeft(a, second);
    a = u32(a + c);
    c = u32(c - b) ^ rotateLeft(b, third);
    b = u32(b + a);
  }
  return [a, b, c];
}

function final([a, b, c]: State): bigint {
  c = u32((c ^ b) - rotateLeft(b, 14n));
  a = u32((a ^ c) - rotateLeft(c, 11n));
  b = u32((b ^ a) - rotateLeft(a, 25n));
  c = u32((c ^ b) - rotateLeft(b, 16n));
  a = u32((a ^ c) - rotateLeft(c, 4n));
  b = u32((b ^ a) - rotateLeft(a, 14n));
  return u32((c ^ b) - rotateLeft(b, 24n));
}

export function naiveJhash2(words: readonly number[], seed: number): number {
  const initial = u32(0xdeadbeefn + BigInt(words.length * 4) + BigInt(seed));
  let state: State = [initial, initial, initial];
  let rest = words.map(BigInt);
  const absorb = ([x = 0n, y = 0n, z = 0n]: bigint[]): State => [
    u32(state[0] + x),
    u32(state[1] + y),
    u32(state[2] + z),
  ];
  while (rest.length > 3) {
    state = mix(absorb(rest));
    rest = rest.slice(3);
  }
  return Number(rest.length === 0 ? state[2] : final(absorb(rest)));
}
