/** Which address may register in which pool: never one that makes the relay a scanner of its network, or a loop. */
import type { Endpoint } from '../../net/address.ts';
import type { RegistrationConfig } from './config.ts';
import { Refusal } from './refusal.ts';
import { covers, localNetwork, unregistrableTarget } from './target-address.ts';

export interface RegistrationRules {
  readonly pool: string;
  /** Absent: the pool takes none. */
  readonly registration: RegistrationConfig | undefined;
  /** The addresses that the relay itself listens on. */
  readonly own: readonly Endpoint[];
}

/** @throws Refusal 403 saying which rule */
export function checkTarget(endpoint: Endpoint, { pool, registration, own }: RegistrationRules): void {
  if (registration === undefined) refuse(`pool "${pool}" takes no registrations`);
  const address = endpoint.toString();
  const local = localNetwork();
  const reason = unregistrableTarget(endpoint, local);
  if (reason !== undefined) refuse(`address: ${address} ${reason}`);
  if (!registration.allow.some((block) => block.contains(endpoint.ip))) {
    refuse(`address: ${address} is outside the blocks that may register`);
  }
  if (own.some((listener) => covers(listener, endpoint, local))) {
    refuse(`address: ${address} is the relay itself; it would send to itself`);
  }
}

function refuse(message: string): never {
  throw new Refusal(403, 'TICKRELAY_ERR_REGISTRATION', message);
}
