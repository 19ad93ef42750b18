/**
 * Every failure of a request as `{error, code, message}` with the right status. The text of an unexpected failure goes to
 * the log and never into an answer.
 */
import { STATUS_CODES } from 'node:http';
import { RelayError, type RelayErrorCode } from '../../../net/relay-error.ts';
import { Refusal } from '../refusal.ts';
import { ForeignOrigin, Unauthorized } from './access.ts';

/** Codes of the admin API beside those of docs/errors.md; docs/admin-api.md describes them. */
export type AdminErrorCode =
  RelayErrorCode | 'TICKRELAY_ERR_UNAUTHORIZED' | 'TICKRELAY_ERR_REQUEST' | 'TICKRELAY_ERR_INTERNAL';

export interface ErrorAnswer {
  readonly status: number;
  readonly body: { readonly error: string; readonly code: AdminErrorCode; readonly message: string };
}

const STATUS_OF: Partial<Record<RelayErrorCode, number>> = {
  TICKRELAY_ERR_ADDRESS: 400,
  TICKRELAY_ERR_CONFIG: 422,
  // A reload that could not be applied: the old configuration is still running.
  TICKRELAY_ERR_BIND: 422,
  TICKRELAY_ERR_ENGINE: 422,
  TICKRELAY_ERR_LIMIT: 422,
};

export function errorAnswer(error: unknown): ErrorAnswer {
  if (error instanceof Unauthorized) return answer(401, 'TICKRELAY_ERR_UNAUTHORIZED', error.message);
  if (error instanceof ForeignOrigin) return answer(403, 'TICKRELAY_ERR_UNAUTHORIZED', error.message);
  if (error instanceof Refusal) return answer(error.status, error.code, error.message);
  if (error instanceof RelayError) {
    const status = STATUS_OF[error.code];
    if (status !== undefined) return answer(status, error.code, error.message);
  }
  // The HTTP library's own refusals: a body that is too large or no JSON, a method that is not known.
  const { statusCode = 500, message = '' } = error as { statusCode?: number; message?: string };
  if (statusCode >= 400 && statusCode < 500) return answer(statusCode, 'TICKRELAY_ERR_REQUEST', message);
  return answer(500, 'TICKRELAY_ERR_INTERNAL', 'the relay failed to answer; its log says why');
}

export function answer(status: number, code: AdminErrorCode, message: string): ErrorAnswer {
  return { status, body: { error: STATUS_CODES[status] ?? 'Error', code, message } };
}
