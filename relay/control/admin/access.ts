/**
 * Who may do what. The admin token, where one is configured, guards everything but /livez, /readyz and /metrics. A
 * registration is guarded by its pool's token; a pool without one falls back to the admin token.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';

/** An answer 401; the message names no token. */
export class Unauthorized extends Error {
  constructor() {
    super('a bearer token is needed: Authorization: Bearer TOKEN');
  }
}

/** A page of another site must not operate a relay through the browser of its operator. */
export class ForeignOrigin extends Error {
  constructor() {
    super('requests from pages of another site are refused');
  }
}

/** @throws Unauthorized unless the request carries this token, or none is needed */
export function requireToken(request: FastifyRequest, token: string | undefined): void {
  if (token === undefined) return;
  const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
  if (!timingSafeEqual(digest(given), digest(token))) throw new Unauthorized();
}

/** @throws ForeignOrigin */
export function requireOwnOrigin(request: FastifyRequest): void {
  const { origin, host } = request.headers;
  if (origin !== undefined && origin !== `http://${host ?? ''}` && origin !== `https://${host ?? ''}`) {
    throw new ForeignOrigin();
  }
}

/** Digests have one length, so that comparing takes the same time for every token. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
