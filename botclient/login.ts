/** How players log in: over TCP, each from its own address, before they play. */
import { connect } from 'node:net';
import type { Endpoint, IpAddress } from '../net/address.ts';
import { RelayError } from '../net/relay-error.ts';
import { decodeLoginAnswer, encodeLogin, MAX_LOGIN_BYTES, type Credentials } from '../wire/login.ts';

/** How many log in at once. */
const CONCURRENT_LOGINS = 16;
const TIMEOUT_MS = 15_000;

/** A player who is to log in. */
export interface LoginAttempt {
  readonly credentials: Credentials;
  /** Where the player plays from; unspecified: the system chooses. */
  readonly address: IpAddress;
}

/**
 * Logs every player in.
 *
 * @returns their player ids, in order
 * @throws RelayError TICKRELAY_ERR_LOGIN naming the first one who is refused; TICKRELAY_ERR_UNREACHABLE when nobody answers
 */
export async function logIn(target: Endpoint, attempts: readonly LoginAttempt[]): Promise<number[]> {
  const playerIds: number[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let i = next++; i < attempts.length; i = next++) playerIds[i] = await logInOne(target, attempts[i]!);
  };
  await Promise.all(Array.from({ length: CONCURRENT_LOGINS }, work));
  return playerIds;
}

async function logInOne(target: Endpoint, { credentials, address }: LoginAttempt): Promise<number> {
  const line = await ask(target, address, encodeLogin(credentials));
  const answer = decodeLoginAnswer(line);
  if (typeof answer === 'number') return answer;
  const { name } = credentials;
  if (answer === undefined) throw unreachable(target, `answered "${line}", which is no answer to a login`);
  throw new RelayError(
    'TICKRELAY_ERR_LOGIN',
    answer === 'denied'
      ? `${target.toString()} does not let "${name}" in: there is no such account, or its password is another one`
      : `${target.toString()} could not find out whether "${name}" may come in: its accounts can't be reached`,
  );
}

/** Sends one line. @returns the line that comes back, without its LF */
function ask(target: Endpoint, address: IpAddress, line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const from = address.range === 'unspecified' ? {} : { localAddress: address.toString() };
    const socket = connect({ host: target.ip.toString(), port: target.port, noDelay: true, ...from });
    let text = '';
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer in time')));
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (text.length > MAX_LOGIN_BYTES) socket.destroy();
    });
    socket.on('error', (error) => reject(unreachable(target, `could not be asked: ${error.message}`)));
    socket.on('close', () => resolve(text.split('\n')[0]!));
    socket.write(line);
  });
}

function unreachable(target: Endpoint, what: string): RelayError {
  return new RelayError('TICKRELAY_ERR_UNREACHABLE', `the login service at ${target.toString()} ${what}`);
}
