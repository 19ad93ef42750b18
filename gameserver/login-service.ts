/**
 * The stub login service: a player says who it is over TCP and learns its player id, with which it then plays over UDP.
 *
 *   connection -> one line -> look the account up -> one line -> end
 *
 * What a client may cost is bounded: the length of its line, the time for it, and the number of connections.
 */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Endpoint } from '../net/address.ts';
import { bindError } from '../net/bind-error.ts';
import { decodeLogin, encodeLoginAnswer, MAX_LOGIN_BYTES, type LoginAnswer } from '../wire/login.ts';
import { authenticate, type Accounts } from './accounts.ts';

const LINE_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 1_024;

/** Every connection that said something is counted under one of these once it is answered. */
export interface LoginCounts {
  readonly welcomed: number;
  readonly denied: number;
  /** The store of the accounts could not be asked. */
  readonly unavailable: number;
  /** No login: another protocol, too long, or not in time. */
  readonly malformed: number;
}

export interface LoginServiceOptions {
  readonly listen: Endpoint;
  readonly accounts: Accounts;
  /** For the client's line. */
  readonly timeoutMs?: number;
}

export class LoginService {
  readonly local: Endpoint;
  readonly #server: Server;
  readonly #accounts: Accounts;
  readonly #timeoutMs: number;
  readonly #sockets = new Set<Socket>();
  readonly #counts = { welcomed: 0, denied: 0, unavailable: 0, malformed: 0 };

  private constructor(
    server: Server,
    { listen, accounts, timeoutMs = LINE_TIMEOUT_MS }: LoginServiceOptions,
  ) {
    this.#server = server;
    this.#accounts = accounts;
    this.#timeoutMs = timeoutMs;
    this.local = new Endpoint(listen.ip, (server.address() as AddressInfo).port);
    server.on('connection', (socket) => this.#serve(socket));
  }

  /** @throws RelayError TICKRELAY_ERR_BIND when the address can't be had */
  static async open(options: LoginServiceOptions): Promise<LoginService> {
    const { ip, port } = options.listen;
    const server = createServer({ noDelay: true });
    server.maxConnections = MAX_CONNECTIONS;
    server.listen({ host: ip.toString(), port });
    try {
      await once(server, 'listening');
    } catch (error) {
      throw bindError(options.listen, (error as NodeJS.ErrnoException).code ?? String(error), error, 'TCP');
    }
    return new LoginService(server, options);
  }

  get counts(): LoginCounts {
    return { ...this.#counts };
  }

  /** Cuts what is open. The accounts stay open. */
  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #serve(socket: Socket): void {
    let text = '';
    this.#sockets.add(socket);
    socket.on('error', () => undefined).on('close', () => this.#sockets.delete(socket));
    const refuse = (): void => {
      this.#counts.malformed++;
      socket.destroy();
    };
    socket.setTimeout(this.#timeoutMs, refuse);
    const onData = (chunk: Buffer): void => {
      text += chunk.toString('latin1');
      const end = text.indexOf('\n');
      if (end === -1 && text.length < MAX_LOGIN_BYTES) return;
      socket.off('data', onData).setTimeout(0).resume();
      const login = end === -1 || end >= MAX_LOGIN_BYTES ? undefined : decodeLogin(text.slice(0, end));
      if (login === undefined) {
        refuse();
        return;
      }
      void authenticate(this.#accounts, login).then(
        (playerId) => this.#answer(socket, playerId ?? 'denied'),
        () => this.#answer(socket, 'unavailable'),
      );
    };
    socket.on('data', onData);
  }

  #answer(socket: Socket, answer: LoginAnswer): void {
    this.#counts[typeof answer === 'number' ? 'welcomed' : answer]++;
    socket.end(encodeLoginAnswer(answer));
  }
}
