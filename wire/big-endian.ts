/**
 * Numbers in network byte order, in any byte array at any offset. Plain functions instead of a DataView, because a
 * datagram arrives in a buffer that is known only then, and a view made for each datagram would be garbage.
 */

// The same four bytes as a float and as an integer: shifts on the integer give the byte order on every machine.
const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

export function writeU16(out: Uint8Array, at: number, value: number): void {
  out[at] = value >>> 8;
  out[at + 1] = value;
}

export function readU16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function writeU32(out: Uint8Array, at: number, value: number): void {
  out[at] = value >>> 24;
  out[at + 1] = value >>> 16;
  out[at + 2] = value >>> 8;
  out[at + 3] = value;
}

export function readU32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** Writes an IEEE 754 single; a double is rounded to the nearest one. */
export function writeF32(out: Uint8Array, at: number, value: number): void {
  float[0] = value;
  writeU32(out, at, bits[0]!);
}

export function readF32(bytes: Uint8Array, at: number): number {
  bits[0] = readU32(bytes, at);
  return float[0]!;
}
