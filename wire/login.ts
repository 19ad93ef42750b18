/**
 * The login of the stub game, over TCP: one line each way, in printable ASCII, ended by LF; then the server ends the
 * connection. docs/wire-format.md describes it.
 *
 *     client -> LOGIN name password
 *     server -> WELCOME playerId | DENIED | UNAVAILABLE
 */

/** The longest line, its LF included. */
export const MAX_LOGIN_BYTES = 128;

export interface Credentials {
  readonly name: string;
  readonly password: string;
}

/** A number is the player's id. `unavailable`: whether the password is right could not be found out. */
export type LoginAnswer = number | 'denied' | 'unavailable';

/** The accounts that the stub game has: player n is `player-n`. */
export function stubCredentials(index: number): Credentials {
  return { name: `player-${index}`, password: `secret-${index}` };
}

/** Name and password have no spaces and are printable ASCII, together at most 119 characters. */
export function encodeLogin({ name, password }: Credentials): string {
  return `LOGIN ${name} ${password}\n`;
}

/** @param line without its LF. @returns undefined when it is no login */
export function decodeLogin(line: string): Credentials | undefined {
  const [, name, password] = /^LOGIN ([\x21-\x7e]+) ([\x21-\x7e]+)$/.exec(line) ?? [];
  return name === undefined || password === undefined ? undefined : { name, password };
}

export function encodeLoginAnswer(answer: LoginAnswer): string {
  return typeof answer === 'number' ? `WELCOME ${answer}\n` : `${answer.toUpperCase()}\n`;
}

/** @param line without its LF. @returns undefined when it is no answer */
export function decodeLoginAnswer(line: string): LoginAnswer | undefined {
  if (line === 'DENIED') return 'denied';
  if (line === 'UNAVAILABLE') return 'unavailable';
  const id = /^WELCOME (\d{1,5})$/.exec(line)?.[1];
  return id === undefined || Number(id) > 0xffff ? undefined : Number(id);
}
