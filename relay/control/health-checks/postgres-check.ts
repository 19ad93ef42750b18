/**
 * A PostgreSQL server is well when it would take a client: it answers the protocol, and does not say that it is starting
 * up, shutting down or recovering. That needs no account. With a `role` the check logs in and asks whether the server is
 * a primary or a replica.
 *
 * Sequence, as PostgreSQL's documentation has it ("Frontend/Backend Protocol", sections Message Flow and Message Formats;
 * "PostgreSQL Error Codes"):
 *
 *     -> SSLRequest                    int32 8, int32 80877103
 *     <- `S` or `N`                    one byte; after `S` the rest goes through TLS
 *     -> StartupMessage                int32 length, int32 196608, name and value as C strings in pairs, a zero
 *     <- `R` Authentication...         it would take a client: well
 *     <- `E` ErrorResponse             fields of a letter and a C string; `C` is the code: 57P03 cannot_connect_now is
 *                                      not well, any other refuses this client only
 */
import { once } from 'node:events';
import { connect as netConnect, Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import type { HealthCheck } from './health-check.ts';

export interface PostgresCheckConfig {
  readonly port: number | undefined;
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly database: string;
  readonly role: 'any' | 'primary' | 'replica';
}

const SSL_REQUEST = Buffer.from('0000000804d2162f', 'hex');
const PROTOCOL_VERSION = 196_608;
const CANNOT_CONNECT_NOW = '57P03';

/** The account that is named where none is configured. It need not exist: a server that refuses it is well. */
const NOBODY = 'tickrelay';

/** The longest answer that is read: what a server says at this point is a line or two. */
const MAX_ANSWER_BYTES = 16 * 1024;

export function postgresCheck(config: PostgresCheckConfig): HealthCheck {
  return config.role === 'any' ? answersProtocol(config) : hasRole(config);
}

function answersProtocol({ port, user = NOBODY, database }: PostgresCheckConfig): HealthCheck {
  return async (endpoint, signal) => {
    const socket = netConnect({ host: endpoint.ip.toString(), port: port ?? endpoint.port });
    ignoreErrors(socket);
    try {
      await once(socket, 'connect', { signal });
      socket.write(SSL_REQUEST);
      const offer = (await readBytes(socket, 1, signal)).toString('latin1', 0, 1);
      if (offer !== 'S' && offer !== 'N') return 'the answer is not PostgreSQL';
      // Whether the certificate is right is the clients' business: nothing secret is said here.
      const secured = offer === 'S' ? tlsConnect({ socket, rejectUnauthorized: false }) : socket;
      ignoreErrors(secured);
      if (secured !== socket) await once(secured, 'secureConnect', { signal });
      secured.write(startupMessage(user, database));
      return await verdict(secured, signal);
    } finally {
      socket.destroy();
    }
  };
}

/** What waits for the socket hears of its errors; between two waits nobody does. */
function ignoreErrors(socket: Socket): void {
  socket.on('error', () => undefined);
}

function startupMessage(user: string, database: string): Buffer {
  const parameters = Buffer.from(`user\0${user}\0database\0${database}\0application_name\0tickrelay\0\0`);
  const header = Buffer.alloc(8);
  header.writeInt32BE(header.length + parameters.length, 0);
  header.writeInt32BE(PROTOCOL_VERSION, 4);
  return Buffer.concat([header, parameters]);
}

/** @returns why the server would take no client, or undefined */
async function verdict(socket: Socket, signal: AbortSignal): Promise<string | undefined> {
  const header = await readBytes(socket, 5, signal);
  const type = header.toString('latin1', 0, 1);
  if (type === 'R') return undefined;
  const length = header.readInt32BE(1) - 4;
  if (type !== 'E' || length < 0 || length > MAX_ANSWER_BYTES) return 'the answer is not PostgreSQL';
  const fields = (await readBytes(socket, length, signal)).toString().split('\0');
  const field = (letter: string): string => fields.find((text) => text.startsWith(letter))?.slice(1) ?? '';
  return field('C') === CANNOT_CONNECT_NOW ? `${field('M')} (${CANNOT_CONNECT_NOW})` : undefined;
}

/** So many bytes; what comes behind them stays in the socket. */
function readBytes(socket: Socket, count: number, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      socket.off('readable', look).off('end', fail).off('close', fail);
      signal.removeEventListener('abort', fail);
      act();
    };
    const fail = (): void => settle(() => reject(new Error('the connection ended without an answer')));
    const look = (): void => {
      const bytes = socket.read(count) as Buffer | null;
      if (bytes === null) return;
      // At the end of the stream `read` hands out what there is.
      if (bytes.length === count) settle(() => resolve(bytes));
      else fail();
    };
    socket.on('readable', look).on('end', fail).on('close', fail);
    signal.addEventListener('abort', fail);
    if (socket.destroyed || socket.readableEnded || signal.aborted) fail();
    else look();
  });
}

function hasRole({ port, user, password, database, role }: PostgresCheckConfig): HealthCheck {
  return async (endpoint, signal) => {
    // Only relays that ask for a role need the client.
    const { Client } = await import('pg');
    signal.throwIfAborted();
    let stream: Socket | undefined;
    const client = new Client({
      host: endpoint.ip.toString(),
      port: port ?? endpoint.port,
      user,
      password,
      database,
      application_name: 'tickrelay',
      stream: () => (stream = new Socket()),
    });
    client.on('error', () => undefined);
    const abort = (): void => void stream?.destroy(new Error('aborted'));
    signal.addEventListener('abort', abort);
    try {
      await client.connect();
      const { rows } = await client.query<{ replica: boolean }>('select pg_is_in_recovery() as replica');
      const found = rows[0]?.replica === true ? 'replica' : 'primary';
      return found === role ? undefined : `is a ${found}`;
    } catch (error) {
      if (signal.aborted) throw error;
      const { code, message } = error as { code?: string; message: string };
      return code === undefined ? message : `${message} (${code})`;
    } finally {
      signal.removeEventListener('abort', abort);
      stream?.destroy();
    }
  };
}
