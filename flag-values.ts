/**
 * What the flags of the commands take: yargs `coerce` functions, which turn a flag's text into its value or fail with a
 * message that names the flag and shows the text as it was typed. The flags have `type: 'string'`, so that yargs leaves
 * the text alone; a default may be the value itself.
 */
import { Endpoint, IpAddress } from './net/address.ts';
import { parseDurationMs } from './net/duration.ts';
import { RelayError } from './net/relay-error.ts';

/** From what was typed, a list where the flag is given more than once, or the default. */
export type Coerce<Value> = (given: Value | string | readonly string[]) => Value;

/** @throws RelayError TICKRELAY_ERR_CONFIG */
export function wrongFlag(flag: string, problem: string): RelayError {
  return new RelayError('TICKRELAY_ERR_CONFIG', `${flag} ${problem}`);
}

/** A flag whose text `parse` understands. What it throws is preceded by the flag. */
export function flagOf<Value>(flag: string, parse: (text: string) => Value): Coerce<Value> {
  return (given) => {
    if (Array.isArray(given)) throw wrongFlag(flag, `is given more than once: ${given.join(', ')}`);
    if (typeof given !== 'string') return given as Value;
    try {
      return parse(given);
    } catch (error) {
      if (!(error instanceof RelayError) || error.message.startsWith(flag)) throw error;
      throw new RelayError(error.code, `${flag}: ${error.message}`);
    }
  };
}

export function integerFlag(flag: string, min: number, max: number): Coerce<number> {
  return flagOf(flag, (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (value >= min && value <= max) return value;
    throw wrongFlag(flag, `takes an integer from ${min} to ${max}, not ${text}`);
  });
}

/** @returns ms */
export function durationFlag(flag: string, minMs = 0): Coerce<number> {
  return flagOf(flag, (text) => {
    const valueMs = parseDurationMs(text);
    if (valueMs >= minMs) return valueMs;
    throw wrongFlag(flag, `${text} is too short: at least ${minMs}ms`);
  });
}

export function endpointFlag(flag: string): Coerce<Endpoint> {
  return flagOf(flag, (text) => Endpoint.parse(text));
}

/** An address that datagrams or connections can be sent to. */
export function targetFlag(flag: string): Coerce<Endpoint> {
  return flagOf(flag, (text) => {
    const target = Endpoint.parse(text);
    const { range } = target.ip;
    if (target.port === 0) throw wrongFlag(flag, `${text} has port 0; a target has a port from 1 to 65535`);
    if (range === 'multicast' || range === 'broadcast' || range === 'unspecified') {
      throw wrongFlag(flag, `${text} is ${range}; a target is one host`);
    }
    return target;
  });
}

export function addressFlag(flag: string): Coerce<IpAddress> {
  return flagOf(flag, (text) => IpAddress.parse(text));
}

/** @throws RelayError TICKRELAY_ERR_CONFIG naming the flag that was given twice and is none of `lists` (camel case) */
export function requireSingle(args: object, lists: readonly string[] = []): void {
  const twice = Object.entries(args).find(
    ([key, value]) =>
      Array.isArray(value) && /^[a-z]/i.test(key) && !key.includes('-') && !lists.includes(key),
  );
  if (twice === undefined) return;
  const flag = `--${twice[0].replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  throw wrongFlag(flag, `is given more than once: ${(twice[1] as unknown[]).join(', ')}`);
}
