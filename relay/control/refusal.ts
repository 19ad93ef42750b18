/** A request that the control plane refuses: what to answer over HTTP, with nothing changed. */
import { RelayError, type RelayErrorCode } from '../../net/relay-error.ts';

export class Refusal extends RelayError {
  /** HTTP status, 4xx. */
  readonly status: number;

  constructor(status: number, code: RelayErrorCode, message: string) {
    super(code, message);
    this.name = 'Refusal';
    this.status = status;
  }
}
