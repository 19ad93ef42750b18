/**
 * The admin API (docs/admin-api.md) on its own address, apart from players: probes, metrics, pools, registration,
 * sessions, configuration. The routes are in admin/, by what they are about.
 */
import fastify, { type ConnectionError, type FastifyInstance } from 'fastify';
import type { AddressInfo, Socket } from 'node:net';
import type { Logger } from 'pino';
import { Endpoint, IpAddress } from '../../net/address.ts';
import { RelayError } from '../../net/relay-error.ts';
import { requireOwnOrigin, requireToken } from './admin/access.ts';
import type { AdminContext } from './admin/admin-context.ts';
import { clientRoutes } from './admin/client-routes.ts';
import { configRoutes } from './admin/config-routes.ts';
import { answer, errorAnswer } from './admin/error-answer.ts';
import { pinGroupRoutes } from './admin/pin-group-routes.ts';
import { poolRoutes } from './admin/pool-routes.ts';
import { probeRoutes } from './admin/probe-routes.ts';
import { registrationRoutes } from './admin/registration-routes.ts';
import { MAX_REGISTRATION_BYTES } from './registration-request.ts';

export interface AdminServerOptions extends AdminContext {
  readonly logger: Logger;
  /** Time for a request to arrive whole, in ms. Default 10,000. */
  readonly requestTimeoutMs?: number;
}

/** Connections at once; above it, new ones are refused. Every game server may keep one open for its heartbeats. */
const MAX_CONNECTIONS = 4_096;
const REQUEST_TIMEOUT_MS = 10_000;
/** Between two looks for requests that took too long. */
const TIMEOUT_CHECK_MS = 500;
/** Time that requests under way have when the server closes. */
const CLOSE_GRACE_MS = 1_000;

export class AdminServer {
  /** The HTTP application, for tests that need no socket. */
  readonly app: FastifyInstance;
  readonly #log: Logger;
  #closing: Promise<void> | undefined;

  constructor({ logger, requestTimeoutMs = REQUEST_TIMEOUT_MS, ...context }: AdminServerOptions) {
    this.#log = logger;
    this.app = fastify({
      bodyLimit: MAX_REGISTRATION_BYTES,
      requestTimeout: requestTimeoutMs,
      http: {
        // By default a minute, and the shorter of the two holds for the head alone, the longer for the whole.
        headersTimeout: requestTimeoutMs,
        connectionsCheckingInterval: TIMEOUT_CHECK_MS,
        // A request without a Host gets the answer of its page.
        requireHostHeader: false,
      },
      clientErrorHandler: refuseMalformed,
      forceCloseConnections: 'idle',
      return503OnClosing: true,
    });
    this.app.server.maxConnections = MAX_CONNECTIONS;
    this.#answerErrors();
    this.#readJson();
    this.app.addHook('onRequest', (request, _reply, done) => {
      requireOwnOrigin(request);
      done();
    });
    this.#addRoutes(context);
  }

  /**
   * Binds the address.
   *
   * @returns the bound address, with the port that the system chose
   * @throws RelayError TICKRELAY_ERR_BIND naming the address
   */
  async listen(address: Endpoint): Promise<Endpoint> {
    try {
      await this.app.listen({ host: address.ip.toString(), port: address.port });
    } catch (error) {
      const reason = (error as NodeJS.ErrnoException).code ?? 'unknown error';
      const hint =
        reason === 'EADDRINUSE' ? 'another process has it; choose another port or end that process' : reason;
      throw new RelayError(
        'TICKRELAY_ERR_BIND',
        `the admin address ${address.toString()} can't be had: ${hint}`,
        {
          cause: error,
        },
      );
    }
    const bound = this.app.server.address() as AddressInfo;
    return new Endpoint(IpAddress.parse(bound.address), bound.port);
  }

  /** Answers what is under way for at most a second, then cuts every connection. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const timer = setTimeout(() => this.app.server.closeAllConnections(), CLOSE_GRACE_MS);
    await this.app.close();
    clearTimeout(timer);
  }

  #answerErrors(): void {
    this.app.setErrorHandler((error, request, reply) => {
      const { status, body } = errorAnswer(error);
      if (status === 500)
        this.#log.error({ err: error, method: request.method, url: request.url }, 'request failed');
      if (status === 401) void reply.header('www-authenticate', 'Bearer');
      return reply.code(status).send(body);
    });
    this.app.setNotFoundHandler((_request, reply) => {
      const { status, body } = answer(
        404,
        'TICKRELAY_ERR_REQUEST',
        'there is no such page; docs/admin-api.md lists them',
      );
      return reply.code(status).send(body);
    });
  }

  /** JSON and nothing else, with `__proto__` refused; an empty body is no error where none is needed. */
  #readJson(): void {
    const parse = this.app.getDefaultJsonParser('error', 'error');
    this.app.removeContentTypeParser(['application/json', 'text/plain']);
    this.app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
      if (body === '') done(null, undefined);
      else void parse(request, body as string, done);
    });
  }

  #addRoutes(context: AdminContext): void {
    probeRoutes(this.app, context);
    void this.app.register((scope, _options, done) => {
      scope.addHook('onRequest', (request, _reply, next) => {
        requireToken(request, context.relay.config().admin?.token);
        next();
      });
      poolRoutes(scope, context);
      pinGroupRoutes(scope, context);
      clientRoutes(scope, context);
      void scope.register((inner, _inner, next) => {
        configRoutes(inner, context);
        next();
      });
      done();
    });
    void this.app.register((scope, _options, done) => {
      registrationRoutes(scope, context);
      done();
    });
  }
}

/** Answers what is no HTTP at all, or did not arrive in time, and hangs up. */
function refuseMalformed(error: ConnectionError, socket: Socket): void {
  if (socket.destroyed || !socket.writable) return;
  const isLate = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
  const isLarge = error.code === 'HPE_HEADER_OVERFLOW';
  const status = isLate ? 408 : isLarge ? 431 : 400;
  const why = isLate ? 'took too long to arrive' : isLarge ? 'has too large a head' : 'is not HTTP';
  const { body } = answer(status, 'TICKRELAY_ERR_REQUEST', `the request ${why}`);
  const text = JSON.stringify(body);
  socket.end(
    `HTTP/1.1 ${status} ${body.error}\r\nConnection: close\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
}
