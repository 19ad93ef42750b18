import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { pino, type Logger } from 'pino';
import type { RegistrationOptions } from '../../../gameserver/registration.ts';
import { Registration } from '../../../gameserver/registration.ts';
import { Endpoint } from '../../../net/address.ts';

interface Request {
  readonly line: string;
  readonly authorization: string | undefined;
  readonly body: unknown;
}

interface Answer {
  readonly status: number;
  readonly body?: string;
}

/** A relay's admin API that remembers its requests and answers as it is told. */
class FakeRelay {
  answer: Answer = { status: 200 };
  readonly requests: Request[] = [];
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      void readBody(request).then((text) => {
        const { method = '', url = '', headers } = request;
        this.requests.push({
          line: `${method} ${url}`,
          authorization: headers.authorization,
          body: text === '' ? undefined : JSON.parse(text),
        });
        response.writeHead(this.answer.status).end(this.answer.body);
      });
    });
  }

  async listen(port = 0): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(port, '127.0.0.1', resolve));
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): URL {
    return new URL(`http://127.0.0.1:${this.port}`);
  }

  count(method: string): number {
    return this.requests.filter(({ line }) => line.startsWith(method)).length;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += String(chunk);
  return text;
}

interface Log {
  readonly level: number;
  readonly msg: string;
}

const WARN = 40;

function collectLogs(): { logger: Logger; logs: Log[]; warnings: () => string[] } {
  const logs: Log[] = [];
  const logger = pino(
    { level: 'debug' },
    { write: (line: string) => void logs.push(JSON.parse(line) as Log) },
  );
  const warnings = (): string[] => logs.filter(({ level }) => level === WARN).map(({ msg }) => msg);
  return { logger, logs, warnings };
}

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function startRelay(port = 0): Promise<FakeRelay> {
  const relay = await new FakeRelay().listen(port);
  closers.push(() => relay.close());
  return relay;
}

function register(
  options: Pick<RegistrationOptions, 'relay' | 'logger'> & Partial<RegistrationOptions>,
): Registration {
  const registration = new Registration({
    pool: 'game-servers',
    backendId: 'server-1',
    address: Endpoint.parse('127.0.0.1:4567'),
    weight: 2,
    token: 'secret',
    intervalMs: 10,
    players: () => 12,
    ...options,
  });
  closers.unshift(() => registration.leave());
  registration.start();
  return registration;
}

describe('a registration', () => {
  test('puts address, weight and player count, with the bearer token', async () => {
    const relay = await startRelay();
    register({ relay: relay.url, logger: collectLogs().logger });
    await vi.waitFor(() => expect(relay.requests.length).toBeGreaterThan(0));
    expect(relay.requests[0]).toEqual({
      line: 'PUT /v1/pools/game-servers/backends/server-1',
      authorization: 'Bearer secret',
      body: { address: '127.0.0.1:4567', weight: 2, players: 12 },
    });
  });

  test('is repeated each interval with the player count of the moment', async () => {
    const relay = await startRelay();
    let players = 0;
    register({ relay: relay.url, logger: collectLogs().logger, players: () => players++ });
    await vi.waitFor(() => expect(relay.count('PUT')).toBeGreaterThanOrEqual(3));
    expect(relay.requests.slice(0, 3).map(({ body }) => (body as { players: number }).players)).toEqual([
      0, 1, 2,
    ]);
  });

  test('without a token sends no authorization', async () => {
    const relay = await startRelay();
    register({ relay: relay.url, logger: collectLogs().logger, token: undefined });
    await vi.waitFor(() => expect(relay.requests.length).toBeGreaterThan(0));
    expect(relay.requests[0]?.authorization).toBeUndefined();
  });

  test('keeps the path of a relay behind a prefix, and escapes names', async () => {
    const relay = await startRelay();
    const url = new URL('/relay', relay.url);
    register({ relay: url, logger: collectLogs().logger, pool: 'a/b', backendId: 'ä' });
    await vi.waitFor(() => expect(relay.requests.length).toBeGreaterThan(0));
    expect(relay.requests[0]?.line).toBe('PUT /relay/v1/pools/a%2Fb/backends/%C3%A4');
  });

  test('leaves by DELETE, after which no heartbeat follows', async () => {
    const relay = await startRelay();
    const registration = register({ relay: relay.url, logger: collectLogs().logger });
    await vi.waitFor(() => expect(relay.count('PUT')).toBeGreaterThan(0));
    await Promise.all([registration.leave(), registration.leave()]);
    expect(relay.requests.at(-1)).toEqual({
      line: 'DELETE /v1/pools/game-servers/backends/server-1',
      authorization: 'Bearer secret',
      body: undefined,
    });
    expect(relay.count('DELETE')).toBe(1);
  });
});

describe('a relay that is down', () => {
  test('is tried again until it is there, with one warning for the outage', async () => {
    const before = await startRelay();
    const { url, port } = before;
    await before.close();
    const { logger, logs, warnings } = collectLogs();
    let attempts = 0;
    register({ relay: url, logger, players: () => attempts++ });
    await vi.waitFor(() => expect(attempts).toBeGreaterThan(5));
    expect(warnings()).toEqual([expect.stringContaining('the relay does not answer')]);

    const after = await startRelay(port);
    await vi.waitFor(() => expect(after.count('PUT')).toBeGreaterThan(0));
    await vi.waitFor(() => expect(logs.map(({ msg }) => msg)).toContain('registered'));
  });

  test('is warned about again at the next outage', async () => {
    const relay = await startRelay();
    const { logger, warnings } = collectLogs();
    register({ relay: relay.url, logger });
    for (const outages of [1, 2]) {
      relay.answer = { status: 503, body: '{"message":"draining"}' };
      await vi.waitFor(() => expect(warnings()).toHaveLength(outages));
      const puts = relay.count('PUT');
      relay.answer = { status: 200 };
      await vi.waitFor(() => expect(relay.count('PUT')).toBeGreaterThan(puts + 2));
    }
    expect(warnings()[0]).toContain('the relay answered 503: draining');
  });

  test('does not keep a server from leaving: the request gives up after its timeout', async () => {
    const silent = createServer(() => undefined);
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const { logger, warnings } = collectLogs();
    const relay = new URL(`http://127.0.0.1:${port}`);
    const registration = register({ relay, logger, timeoutMs: 30 });
    await registration.leave();
    expect(warnings().at(-1)).toContain('did not leave the pool');
    silent.closeAllConnections();
    silent.close();
  });
});

describe('a relay that refuses', () => {
  test("is logged once with the relay's message, and asked again", async () => {
    const relay = await startRelay();
    relay.answer = { status: 403, body: '{"statusCode":403,"message":"10.0.0.9 is not in the allow list"}' };
    const { logger, warnings } = collectLogs();
    register({ relay: relay.url, logger });
    await vi.waitFor(() => expect(relay.count('PUT')).toBeGreaterThan(3));
    expect(warnings()).toEqual([
      'not registered: the relay answered 403: 10.0.0.9 is not in the allow list; trying again every 10 ms',
    ]);
  });

  test('and answers no JSON is quoted in short', async () => {
    const relay = await startRelay();
    relay.answer = { status: 404, body: '<h1>nothing here</h1>'.padEnd(10_000) };
    const { logger, warnings } = collectLogs();
    register({ relay: relay.url, logger });
    await vi.waitFor(() => expect(warnings()).toHaveLength(1));
    expect(warnings()[0]).toContain('<h1>nothing here</h1>');
    expect(warnings()[0]?.length).toBeLessThan(400);
  });

  test('for another reason is logged again', async () => {
    const relay = await startRelay();
    const { logger, warnings } = collectLogs();
    relay.answer = { status: 401, body: '{"message":"bad token"}' };
    register({ relay: relay.url, logger });
    await vi.waitFor(() => expect(warnings()).toHaveLength(1));
    relay.answer = { status: 404, body: '{"message":"no such pool"}' };
    await vi.waitFor(() => expect(warnings()).toHaveLength(2));
  });
});
