/** A client and its backends, who speak through a rig's programs. */
import type { ListenerRules, Outcome, PacketRig } from './packet-rig.ts';

export const LISTENER = '198.51.100.1:7777';
export const A = '10.9.0.1:9000';
export const B = '10.9.0.2:9000';
export const CLIENT = '10.0.0.1:5000';

export interface Conversation {
  /** A datagram of a client on its way in. */
  readonly send: (client: string, options?: { length?: number; to?: string }) => Outcome;
  /** A backend's datagram on its way out. */
  readonly answer: (backend: string, options?: { length?: number; to?: string }) => Outcome;
  /** Listens on LISTENER, with ready backends. */
  readonly listen: (backends: readonly string[], options?: ListenerRules) => Promise<void>;
}

export function conversation(rig: PacketRig): Conversation {
  return {
    send: (client, { length = 14, to = LISTENER } = {}) =>
      rig.ingress({ source: client, destination: to, payload: new Uint8Array(length) }),
    answer: (backend, { length = 14, to = CLIENT } = {}) =>
      rig.egress({ source: backend, destination: to, payload: new Uint8Array(length) }),
    listen: async (backends, options = {}) => {
      rig.listen(LISTENER, options);
      await rig.backends(...backends);
    },
  };
}
