/**
 * Text messages to and from bytes. Everything the text codecs write is ASCII; anything else that arrives is read byte by
 * byte (Latin-1), which never fails and never makes a valid message.
 */
import assert from 'node:assert/strict';

/** Writes the text at the start of `out`. @returns its length in bytes */
export function writeAscii(text: string, out: Uint8Array): number {
  assert(out.length >= text.length, 'no room for the message');
  return Buffer.from(out.buffer, out.byteOffset, out.byteLength).write(text, 'latin1');
}

export function readAscii(bytes: Uint8Array, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, length).toString('latin1');
}
