/**
 * Operating errors: what an operator can cause and mend. A hostile packet is no error (relay/core/drop-reason.ts), and
 * a programmer's mistake is an assertion.
 */

/** Stable codes. Each has a heading in docs/errors.md; adding one means adding it there. */
export type RelayErrorCode =
  | 'TICKRELAY_ERR_ADDRESS'
  | 'TICKRELAY_ERR_BIND'
  | 'TICKRELAY_ERR_CONFIG'
  | 'TICKRELAY_ERR_ENGINE'
  | 'TICKRELAY_ERR_LIMIT'
  | 'TICKRELAY_ERR_LOAD'
  | 'TICKRELAY_ERR_LOGIN'
  | 'TICKRELAY_ERR_POOL'
  | 'TICKRELAY_ERR_REGISTRATION'
  | 'TICKRELAY_ERR_UNREACHABLE';

/** Says what is wrong, names the input, and says what would be right. */
export class RelayError extends Error {
  readonly code: RelayErrorCode;

  constructor(code: RelayErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'RelayError';
    this.code = code;
  }
}
