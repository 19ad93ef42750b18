/** What a game server sends to register: checked field by field before anything else looks at it. */
import { Endpoint } from '../../net/address.ts';
import { MAX_WEIGHT } from '../core/limits.ts';
import { shown } from './config-problems.ts';
import { NAME_PATTERN, NAME_RULE } from './config-schema.ts';
import { Refusal } from './refusal.ts';

/** The largest body of a registration. */
export const MAX_REGISTRATION_BYTES = 4_096;

/** Players that one server can report: its ids are 16 bits. */
const MAX_PLAYERS = 65_536;

const KEYS = ['address', 'weight', 'players'];

export interface RegistrationRequest {
  readonly endpoint: Endpoint;
  readonly weight: number;
  /** Players that the server counts itself; absent when it does not say. */
  readonly players: number | undefined;
}

/** @throws Refusal 400 */
export function checkBackendId(id: string): void {
  if (!NAME_PATTERN.test(id)) refuse(`the backend id ${shown(id)} should be ${NAME_RULE}`);
}

/** @throws Refusal 400 naming the key and what would be right */
export function readRegistration(body: unknown): RegistrationRequest {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    refuse('the body should be a JSON object, such as {"address":"10.0.0.3:7777","weight":1,"players":12}');
  }
  const { address, weight = 1, players } = body as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(body).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) refuse(`${shown(unknown)} is not a key here; the keys are ${KEYS.join(', ')}`);
  if (!isWhole(weight, 1, MAX_WEIGHT))
    refuse(`weight: ${shown(weight)} should be a whole number from 1 to ${MAX_WEIGHT}`);
  if (players !== undefined && !isWhole(players, 0, MAX_PLAYERS)) {
    refuse(`players: ${shown(players)} should be a whole number from 0 to ${MAX_PLAYERS}`);
  }
  return { endpoint: readEndpoint(address), weight, players };
}

function readEndpoint(address: unknown): Endpoint {
  try {
    if (typeof address === 'string') return Endpoint.parse(address);
  } catch {
    // Said below, in the same words as for what is no text.
  }
  return refuse(
    `address: ${shown(address ?? null)} should be an IP address with a port, such as "10.0.0.3:7777"`,
  );
}

function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
}

function refuse(message: string): never {
  throw new Refusal(400, 'TICKRELAY_ERR_REGISTRATION', message);
}
