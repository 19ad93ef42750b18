/**
 * A game server's membership in a relay's pool: registered by PUT, kept by repeating it, ended by DELETE.
 *
 *   start -> PUT now and every interval, with the player count -> leave -> DELETE
 *
 * The relay may be down or refuse: the server plays on and tries again each interval. A problem is logged when it
 * begins and when it is over, not each time.
 */
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Endpoint } from '../net/address.ts';

export interface RegistrationOptions {
  /** The relay's admin API, such as `http://127.0.0.1:7900`. */
  readonly relay: URL;
  readonly pool: string;
  readonly backendId: string;
  /** Where the relay reaches this server. */
  readonly address: Endpoint;
  /** The server's share of new players, relative to its pool's other servers. */
  readonly weight: number;
  /** The pool's bearer token; without one the header is left out. */
  readonly token?: string | undefined;
  /** Time between two heartbeats, in ms. */
  readonly intervalMs: number;
  /** The longest that one request may take, in ms. Default 2,000. */
  readonly timeoutMs?: number;
  /** The player count, asked at each heartbeat. */
  readonly players: () => number;
  readonly logger: Logger;
}

const DEFAULT_TIMEOUT_MS = 2_000;

interface Problem {
  /** The relay does not answer, or not as itself; otherwise it refuses, and says why. */
  readonly isOutage: boolean;
  readonly text: string;
}

export class Registration {
  readonly #options: RegistrationOptions;
  readonly #url: URL;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #heartbeats: Promise<void> | undefined;
  #left: Promise<void> | undefined;
  #isRegistered = false;
  /** What the last heartbeat met. */
  #problem: Problem | undefined;

  constructor(options: RegistrationOptions) {
    const { relay, pool, backendId } = options;
    const path = `v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backendId)}`;
    this.#options = options;
    this.#url = new URL(path, relay.href.endsWith('/') ? relay : `${relay.href}/`);
    this.#log = options.logger.child({ pool, backend: backendId, relay: relay.href });
  }

  /** Begins to register, and goes on until `leave`. Never fails. */
  start(): void {
    this.#heartbeats ??= this.#repeat();
  }

  /** Ends the heartbeats and tells the relay. Takes at most two timeouts, never fails, idempotent. */
  leave(): Promise<void> {
    this.#left ??= this.#leave();
    return this.#left;
  }

  async #repeat(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#heartbeat();
      await sleep(this.#options.intervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #leave(): Promise<void> {
    // A heartbeat under way is waited for: it must not arrive after the DELETE and register the server again.
    this.#stopping.abort();
    await this.#heartbeats;
    const problem = await this.#request('DELETE');
    if (problem === undefined) this.#log.info('left the pool');
    else this.#log.warn(`did not leave the pool: ${problem.text}`);
  }

  async #heartbeat(): Promise<void> {
    const { address, weight, players, intervalMs } = this.#options;
    const problem = await this.#request('PUT', { address: address.toString(), weight, players: players() });
    if (problem === undefined) {
      if (!this.#isRegistered || this.#problem !== undefined) this.#log.info('registered');
      this.#isRegistered = true;
    } else if (!isSameProblem(problem, this.#problem)) {
      this.#log.warn(`not registered: ${problem.text}; trying again every ${intervalMs} ms`);
    }
    this.#problem = problem;
  }

  /** @returns what went wrong, or undefined */
  async #request(method: 'PUT' | 'DELETE', body?: object): Promise<Problem | undefined> {
    const { token, timeoutMs = DEFAULT_TIMEOUT_MS } = this.#options;
    try {
      const answer = await send(this.#url, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        body: body === undefined ? '' : JSON.stringify(body),
        signal: AbortSignal.timeout(timeoutMs),
      });
      if (answer.status >= 200 && answer.status < 300) return undefined;
      const isOutage = answer.status >= 500;
      return { isOutage, text: `the relay answered ${answer.status}: ${messageOf(answer.text)}` };
    } catch (error) {
      return { isOutage: true, text: `the relay does not answer: ${causeOf(error)}` };
    }
  }
}

interface Sending {
  readonly method: 'PUT' | 'DELETE';
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly signal: AbortSignal;
}

/**
 * One request, without following redirects. Not by fetch, which refuses ports that a relay may well listen on (6000, 10080:
 * the fetch standard's "port blocking").
 */
async function send(url: URL, { body, ...options }: Sending): Promise<{ status: number; text: string }> {
  const request = (url.protocol === 'https:' ? https : http).request(url, options);
  // An error in the middle of the answer comes by both; reading the answer reports it.
  request.on('error', () => undefined);
  request.end(body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return { status: response.statusCode ?? 0, text: await text(response) };
}

/** One outage is one problem, whatever each request meets; refusals differ by what the relay says. */
function isSameProblem(problem: Problem, last: Problem | undefined): boolean {
  return last !== undefined && ((problem.isOutage && last.isOutage) || problem.text === last.text);
}

/** The message of the relay's JSON error, or the start of whatever it sent. */
function messageOf(text: string): string {
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    if (typeof message === 'string') return message;
  } catch {
    // Not from a relay, perhaps from a proxy before it.
  }
  return text.slice(0, 200);
}

/** A timeout is the cause of the abort, which alone says nothing. */
function causeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message || cause.name : String(cause);
}
