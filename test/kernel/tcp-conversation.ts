/** A connection's two ends, which speak through a rig's programs. */
import type { TCP_STATE } from '../../relay/engines/kernel/tcp-maps.ts';
import { MS } from './packet-rig.ts';
import { ACK, FIN, SYN } from './segment.ts';
import type { TcpOutcome, TcpRig } from './tcp-rig.ts';

export const LISTENER = '198.51.100.1:5432';
export const OTHER_LISTENER = '198.51.100.1:6432';
export const A = '10.9.0.1:5432';
export const B = '10.9.0.2:5432';
export const CLIENT = '10.0.0.1:40000';
export const MINUTE = 60_000 * MS;

/** A rig as new, with both listeners before A. */
export async function resetToTwoListeners(rig: TcpRig): Promise<void> {
  await rig.reset();
  rig.listen(LISTENER);
  rig.listen(OTHER_LISTENER, {}, 1);
  await rig.backends(A);
}

/** One connection, seen from both of its ends: what each sends goes through the programs. */
export class Conversation {
  readonly client: string;
  readonly contacted: string;
  readonly #rig: TcpRig;
  clientNext: number;
  backendNext: number;
  /** Where the SYN was sent on to, and from where. */
  backend = '';
  seen = '';

  constructor(
    rig: TcpRig,
    client: string,
    contacted: string,
    { clientNext = 1_000, backendNext = 90_000 } = {},
  ) {
    this.#rig = rig;
    this.client = client;
    this.contacted = contacted;
    this.clientNext = clientNext;
    this.backendNext = backendNext;
  }

  get state(): keyof typeof TCP_STATE | 'none' {
    return this.#rig.state(this.contacted, this.client);
  }

  get key(): Uint8Array {
    return this.#rig.key(this.contacted, this.client);
  }

  syn(): TcpOutcome {
    const outcome = this.#rig.ingress({
      source: this.client,
      destination: this.contacted,
      flags: SYN,
      sequence: this.clientNext,
    });
    this.clientNext = (this.clientNext + 1) >>> 0;
    if (outcome.verdict === -1) {
      this.backend = outcome.segment.destination;
      this.seen = outcome.segment.source;
    }
    return outcome;
  }

  synAck(): TcpOutcome {
    return this.answer(SYN | ACK);
  }

  /** From the client: flags, or bytes with ACK. */
  say(flags: number, length = 0, { sequence = this.clientNext } = {}): TcpOutcome {
    const outcome = this.#rig.ingress({
      source: this.client,
      destination: this.contacted,
      flags,
      sequence,
      acknowledged: (flags & ACK) === 0 ? 0 : this.backendNext,
      payload: new Uint8Array(length).fill(7),
    });
    this.clientNext = (this.clientNext + length + (flags & FIN)) >>> 0;
    return outcome;
  }

  /** From the backend: on its way out, or with sourceAddress `relay` on its way in. */
  answer(flags: number, length = 0, { sequence = this.backendNext } = {}): TcpOutcome {
    const hook = this.seen === this.client ? 'egress' : 'ingress';
    const outcome = this.#rig[hook]({
      source: this.backend,
      destination: this.seen,
      flags,
      sequence,
      acknowledged: (flags & ACK) === 0 ? 0 : this.clientNext,
      payload: new Uint8Array(length).fill(8),
    });
    const numbers = (flags & FIN) + ((flags & SYN) >> 1);
    this.backendNext = (this.backendNext + length + numbers) >>> 0;
    return outcome;
  }

  /** SYN, SYN-ACK, ACK. */
  open(): this {
    this.syn();
    this.synAck();
    this.say(ACK);
    return this;
  }
}

/** Connections of one client, unless another is named, and what the steward is asked to do with them. */
export function conversations(rig: TcpRig): {
  readonly talk: (client?: string, contacted?: string) => Conversation;
  readonly expire: (one: Conversation) => void;
  /** @returns whether an open connection was cut */
  readonly cut: (one: Conversation) => boolean;
} {
  return {
    talk: (client = CLIENT, contacted = LISTENER) => new Conversation(rig, client, contacted),
    expire: (one) => {
      rig.steward.add('expire', one.key);
      rig.steward.flush();
    },
    cut: (one) => {
      rig.steward.add('cut', one.key, 'operator');
      return rig.steward.flush()[0]!;
    },
  };
}
