/** Requests and their answers between two threads, either way over one message port. What travels is copied. */
import { RelayError, type RelayErrorCode } from '../../../net/relay-error.ts';

type Message =
  | { readonly kind: 'request'; readonly number: number; readonly body: unknown }
  | { readonly kind: 'done'; readonly number: number; readonly answer: unknown }
  | {
      readonly kind: 'failed';
      readonly number: number;
      readonly code: RelayErrorCode;
      readonly reason: string;
    };

interface Pending {
  readonly resolve: (answer: never) => void;
  readonly reject: (error: Error) => void;
}

/** Of a request that nobody waits for. */
const NO_ANSWER = 0;

export interface RequestChannelOptions<Theirs> {
  readonly post: (message: unknown) => void;
  /** Answers the other side's requests; what it throws is answered too. */
  readonly answer: (request: Theirs) => unknown;
  /** A request that nobody waits for failed. */
  readonly onTrouble: (error: unknown) => void;
}

export class RequestChannel<Ours, Theirs> {
  readonly #options: RequestChannelOptions<Theirs>;
  readonly #pending = new Map<number, Pending>();
  #next = NO_ANSWER + 1;
  #closed: Error | undefined;

  constructor(options: RequestChannelOptions<Theirs>) {
    this.#options = options;
  }

  /** @throws what the other side threw: RelayError with its code, TICKRELAY_ERR_ENGINE for anything else */
  ask<Answer>(body: Ours): Promise<Answer> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    const number = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(number, { resolve, reject });
      this.#options.post({ kind: 'request', number, body } satisfies Message);
    });
  }

  /** A request without an answer. */
  tell(body: Ours): void {
    this.#options.post({ kind: 'request', number: NO_ANSWER, body } satisfies Message);
  }

  /** What came through the port. */
  receive(message: unknown): void {
    const received = message as Message;
    if (received.kind === 'request') {
      void this.#answer(received.number, received.body as Theirs);
      return;
    }
    const pending = this.#pending.get(received.number);
    this.#pending.delete(received.number);
    if (received.kind === 'done') pending?.resolve(received.answer as never);
    else pending?.reject(new RelayError(received.code, received.reason));
  }

  /** The other side is gone: nobody waits for it any longer. */
  close(error: Error): void {
    this.#closed = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  async #answer(number: number, request: Theirs): Promise<void> {
    try {
      const answer = await this.#options.answer(request);
      if (number !== NO_ANSWER) this.#options.post({ kind: 'done', number, answer } satisfies Message);
    } catch (error) {
      if (number === NO_ANSWER) {
        this.#options.onTrouble(error);
        return;
      }
      const code = error instanceof RelayError ? error.code : 'TICKRELAY_ERR_ENGINE';
      const reason = error instanceof Error ? error.message : String(error);
      this.#options.post({ kind: 'failed', number, code, reason } satisfies Message);
    }
  }
}
