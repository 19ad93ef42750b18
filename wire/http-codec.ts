/**
 * The messages as JSON over HTTP/1.1 (RFC 9112): an update is the request that a game client would send, a world state
 * is the response. Heads are read as a server would read them: header names in any case, in any order, further headers
 * allowed; the body must be as long as Content-Length says.
 */
import type { Codec } from './codec.ts';
import { readAscii, writeAscii } from './ascii.ts';
import { formatUpdate, formatWorld, jsonCodec, parseUpdate, parseWorld } from './json-codec.ts';

const REQUEST_LINE = 'POST /v1/players/position HTTP/1.1';
const STATUS_LINE = 'HTTP/1.1 200 OK';
const HOST = 'game.example.com';

/** Stands for a bearer token: as long as a session token of 256 bits in hexadecimal. */
const BEARER_TOKEN = '0123456789abcdef'.repeat(4);

/** Room for a head, own or foreign. */
const MAX_HEAD_BYTES = 512;
const MAX_UPDATE_BYTES = MAX_HEAD_BYTES + jsonCodec.maxUpdateBytes;
const MAX_WORLD_BYTES = MAX_HEAD_BYTES + jsonCodec.maxWorldBytes;

export const httpCodec: Codec = {
  name: 'http',
  maxUpdateBytes: MAX_UPDATE_BYTES,
  maxWorldBytes: MAX_WORLD_BYTES,

  encodeUpdate(update, out) {
    const body = formatUpdate(update);
    const head = `${REQUEST_LINE}\r\nHost: ${HOST}\r\nAuthorization: Bearer ${BEARER_TOKEN}`;
    return writeAscii(`${head}\r\n${contentHeaders(body)}\r\n\r\n${body}`, out);
  },
  decodeUpdate(bytes, length, into) {
    if (length > MAX_UPDATE_BYTES) return false;
    const message = parseMessage(readAscii(bytes, length));
    if (message?.startLine !== REQUEST_LINE || !message.headers.has('host')) return false;
    const isAuthorized = /^Bearer \S+$/.test(message.headers.get('authorization') ?? '');
    return isAuthorized && parseUpdate(message.body, into);
  },

  encodeWorld(world, out) {
    const body = formatWorld(world);
    return writeAscii(`${STATUS_LINE}\r\n${contentHeaders(body)}\r\n\r\n${body}`, out);
  },
  decodeWorld(bytes, length, into) {
    if (length > MAX_WORLD_BYTES) return false;
    const message = parseMessage(readAscii(bytes, length));
    return message?.startLine === STATUS_LINE && parseWorld(message.body, into);
  },
};

function contentHeaders(body: string): string {
  return `Content-Type: application/json\r\nContent-Length: ${body.length}`;
}

interface HttpMessage {
  readonly startLine: string;
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** @returns undefined for anything but a head, an empty line and a JSON body of the stated length */
function parseMessage(text: string): HttpMessage | undefined {
  const end = text.indexOf('\r\n\r\n');
  if (end === -1) return undefined;
  const [startLine = '', ...lines] = text.slice(0, end).split('\r\n');
  const body = text.slice(end + 4);
  const headers = new Map<string, string>();
  for (const line of lines) {
    const header = /^(?<name>[\w-]+):[ \t]*(?<value>.*)$/.exec(line)?.groups;
    const name = header?.['name']?.toLowerCase();
    // A header given twice has two meanings (request smuggling lives on it).
    if (name === undefined || headers.has(name)) return undefined;
    headers.set(name, header?.['value'] ?? '');
  }
  if (headers.get('content-type') !== 'application/json') return undefined;
  return headers.get('content-length') === String(body.length) ? { startLine, headers, body } : undefined;
}
