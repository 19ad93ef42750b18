/**
 * The pins of client IPs that a TCP listener shares with the others of its pin group. They live with the UDP engine, which
 * must find them while a datagram waits; relay/relay.ts joins the two. Asking takes a turn of the event loop, or a message
 * to a worker and back; the client's early bytes wait in the system meanwhile.
 */
import type { PinRequest } from '../core/pin-group.ts';

export interface SharedPins {
  /** @returns id of the backend to take: the pin's, or else the proposal */
  readonly request: (request: PinRequest) => Promise<string | undefined>;
  /** Ends a hold that a request took. */
  readonly letGo: (group: string, client: Uint32Array) => void;
}
