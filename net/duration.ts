/** Durations as operators write them: `120s`, `500ms`, `2h`. Inside the project a duration is a number of ms. */
import ms from 'ms';
import { RelayError } from './relay-error.ts';

/**
 * @param text a number with a unit (ms, s, m, h, d); a bare number is refused, since nobody agrees on its unit
 * @returns milliseconds, >= 0
 * @throws RelayError TICKRELAY_ERR_CONFIG
 */
export function parseDurationMs(text: string): number {
  const value = /^\d+(\.\d+)?\s?(ms|s|m|h|d)$/.test(text) ? ms(text as ms.StringValue) : undefined;
  if (value === undefined) {
    throw new RelayError('TICKRELAY_ERR_CONFIG', `"${text}" is not a duration (like 500ms, 120s, 5m or 2h)`);
  }
  return value;
}
