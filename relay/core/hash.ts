/**
 * The one hash of the relay: Bob Jenkins' lookup3 over 32-bit words, exactly the Linux kernel's `jhash2`
 * (include/linux/jhash.h), so that an eBPF program and another relay compute the same numbers. Golden vectors for other
 * implementations are in docs/hashing.md.
 */
const JHASH_INITVAL = 0xdeadbeef;

// Both hashes of an address return an i32, `>>> 0` of which is the kernel's number: V8 boxes a u32 from 2^31 up wherever it
// leaves a function, and these run for every datagram and every new session.

/** jhash2 over the 4 words of the address at `words[at]`, as an i32. */
export function hashAddress(words: Uint32Array, at: number, seed: number): number {
  return hashFive(words, at, 0, (JHASH_INITVAL + 16 + seed) | 0);
}

/** jhash2 over 5 words, as an i32: the address at `words[at]`, then `tag` (a port, a listener...). */
export function hashKey(words: Uint32Array, at: number, tag: number, seed: number): number {
  return hashFive(words, at, tag, (JHASH_INITVAL + 20 + seed) | 0);
}

/** jhash2 over the first `length` words. Returns a u32. */
export function hashWords(words: Uint32Array, length: number, seed: number): number {
  let a = (JHASH_INITVAL + length * 4 + seed) | 0;
  let b = a;
  let c = a;
  let at = 0;
  for (; length - at > 3; at += 3) {
    a = (a + words[at]!) | 0;
    b = (b + words[at + 1]!) | 0;
    c = (c + words[at + 2]!) | 0;
    a = (a - c) ^ ((c << 4) | (c >>> 28));
    c = (c + b) | 0;
    b = (b - a) ^ ((a << 6) | (a >>> 26));
    a = (a + c) | 0;
    c = (c - b) ^ ((b << 8) | (b >>> 24));
    b = (b + a) | 0;
    a = (a - c) ^ ((c << 16) | (c >>> 16));
    c = (c + b) | 0;
    b = (b - a) ^ ((a << 19) | (a >>> 13));
    a = (a + c) | 0;
    c = (c - b) ^ ((b << 4) | (b >>> 28));
    b = (b + a) | 0;
  }
  const rest = length - at;
  if (rest === 0) return c >>> 0;
  const hash = final(
    (a + words[at]!) | 0,
    rest > 1 ? (b + words[at + 1]!) | 0 : b,
    rest > 2 ? (c + words[at + 2]!) | 0 : c,
  );
  return hash >>> 0;
}

/**
 * Both fixed lengths unrolled: one mix over three words, then the final over the other one or two. An absent fifth word
 * is the same as 0 here; the length is part of `initial`.
 */
function hashFive(words: Uint32Array, at: number, fifth: number, initial: number): number {
  let a = (initial + words[at]!) | 0;
  let b = (initial + words[at + 1]!) | 0;
  let c = (initial + words[at + 2]!) | 0;
  // __jhash_mix
  a = (a - c) ^ ((c << 4) | (c >>> 28));
  c = (c + b) | 0;
  b = (b - a) ^ ((a << 6) | (a >>> 26));
  a = (a + c) | 0;
  c = (c - b) ^ ((b << 8) | (b >>> 24));
  b = (b + a) | 0;
  a = (a - c) ^ ((c << 16) | (c >>> 16));
  c = (c + b) | 0;
  b = (b - a) ^ ((a << 19) | (a >>> 13));
  a = (a + c) | 0;
  c = (c - b) ^ ((b << 4) | (b >>> 28));
  b = (b + a) | 0;
  return final((a + words[at + 3]!) | 0, (b + fifth) | 0, c);
}

/** __jhash_final */
function final(a: number, b: number, c: number): number {
  c = ((c ^ b) - ((b << 14) | (b >>> 18))) | 0;
  a = ((a ^ c) - ((c << 11) | (c >>> 21))) | 0;
  b = ((b ^ a) - ((a << 25) | (a >>> 7))) | 0;
  c = ((c ^ b) - ((b << 16) | (b >>> 16))) | 0;
  a = ((a ^ c) - ((c << 4) | (c >>> 28))) | 0;
  b = ((b ^ a) - ((a << 14) | (a >>> 18))) | 0;
  return ((c ^ b) - ((b << 24) | (b >>> 8))) | 0;
}
