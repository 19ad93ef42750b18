/**
 * 100,000 random datagrams, first through the relay and then straight to a game server: every one is accounted for, and
 * both processes go on. So that the system itself drops none, they go out in batches; the last of each batch is a proper
 * update, and its answer shows that all before it were read.
 */
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Endpoint } from '../../net/address.ts';
import {
  createPositionUpdate,
  decodePositionUpdate,
  encodePositionUpdate,
} from '../../wire/position-update.ts';
import { createWorldState, decodeWorldState } from '../../wire/world-state.ts';
import { testOnce } from '../support/engine-pass.ts';
import { gameConfig, type GameServerProcess } from '../support/game-fleet.ts';
import { SeededBytes } from '../support/seeded-bytes.ts';
import { Stage } from '../support/stage.ts';
import { UdpPeer } from '../support/udp-peer.ts';
import { until } from '../support/until.ts';

const DATAGRAMS = 100_000;
/** Fits a receive buffer of the size that Linux grants by default. */
const BATCH = 100;
const BATCHES = DATAGRAMS / BATCH;
const MAX_BYTES = 1_500;
/** The last update of each batch; its x is the batch's number. */
const MARKER = { playerId: 1, y: 0.5, z: 0 };
const TIMEOUT_MS = 120_000;

let stage: Stage;

beforeEach(() => (stage = new Stage()));
afterEach(() => stage.close());

interface Sent {
  /** Datagrams by the client that sent them. */
  readonly byClient: readonly number[];
  /** Those that are proper position updates, by client. */
  readonly validByClient: readonly number[];
}

/** Every eighth has the size of a position update, the others 0 to 1,500 bytes. */
function randomDatagram(random: SeededBytes): Buffer {
  return random.bytes(random.integer(7) === 0 ? 14 : random.integer(MAX_BYTES));
}

/** Sends them from clients on one address. The first client begins, and sends the last of each batch. */
async function flood(target: Endpoint, clients: number, seed: string): Promise<Sent> {
  const random = new SeededBytes(seed);
  const world = createWorldState();
  let onMarker: (batch: number) => void = () => undefined;
  const first = new UdpPeer('127.20.0.1:0', ({ payload }) => {
    const isWorld = decodeWorldState(payload, payload.length, world);
    if (isWorld && world.players[0]!.y === MARKER.y) onMarker(world.players[0]!.x);
    return undefined;
  });
  const peers = [stage.closing(first)];
  while (peers.length < clients) peers.push(stage.peer('127.20.0.1:0'));

  const byClient = peers.map(() => 0);
  const validByClient = peers.map(() => 0);
  const update = createPositionUpdate();
  const send = (client: number, payload: Buffer): void => {
    peers[client]!.send(target, payload);
    byClient[client]!++;
    if (decodePositionUpdate(payload, payload.length, update)) validByClient[client]!++;
  };
  const sendMarker = (batch: number): Promise<void> =>
    new Promise((resolve) => {
      onMarker = (answered) => {
        if (answered === batch) resolve();
      };
      const bytes = Buffer.alloc(14);
      encodePositionUpdate({ ...MARKER, x: batch }, bytes);
      send(0, bytes);
    });

  await sendMarker(0);
  for (let batch = 1; batch <= BATCHES; batch++) {
    const last = batch === BATCHES ? BATCH - 1 : BATCH;
    for (let i = 1; i < last; i++) send(i % clients, randomDatagram(random));
    await sendMarker(batch);
  }
  return { byClient, validByClient };
}

async function summaryOf(server: GameServerProcess): Promise<Record<string, number>> {
  server.process.signal('SIGTERM');
  return (await server.process.event('summary')) as Record<string, number>;
}

test(
  'of 100,000 random datagrams the relay forwards or drops each, by reason, and the game server judges each',
  async () => {
    const server = await stage.gameServer({ id: 1 });
    const relay = await stage.relay(
      gameConfig({
        listener: { limits: { sessionsPerSource: 2 } },
        pool: { backends: [server.endpoint.toString()] },
      }),
    );
    const { byClient, validByClient } = await flood(relay.listener(), 3, 'through the relay');
    await relay.untilMetric('datagrams_received_total', { direction: 'downstream' }, DATAGRAMS);

    // The address may have two sessions, so its third client gets none.
    const [one, two, refused] = byClient as [number, number, number];
    const page = await relay.metrics();
    const downstream = { listener: 'game', direction: 'downstream' };
    const upstream = { listener: 'game', direction: 'upstream' };
    expect(one + two + refused).toBe(DATAGRAMS);
    expect(page.value('datagrams_forwarded_total', downstream)).toBe(one + two);
    expect(page.value('datagrams_dropped_total', { ...downstream, reason: 'source-session-limit' })).toBe(
      refused,
    );
    expect(page.value('datagrams_dropped_total', downstream)).toBe(refused);
    expect(page.value('datagrams_dropped_total', upstream)).toBe(0);
    const rows = await relay.sessions();
    expect(rows.map(({ downstreamDatagrams }) => downstreamDatagrams).sort()).toEqual([one, two].sort());

    const player = stage.player('127.20.0.2:0', relay.listener());
    await player.start();
    await player.answers(5);
    await player.stop();
    const { received, accepted, malformed, sent } = await summaryOf(server);
    expect(received).toBe(one + two + player.answered);
    expect(accepted! + malformed!).toBe(received);
    expect(accepted).toBe(validByClient[0]! + validByClient[1]! + player.answered);
    expect(sent).toBe(accepted);
    expect(await relay.metric('datagrams_forwarded_total', upstream)).toBe(accepted);
    expect(relay.process.exit).toBeUndefined();
  },
  TIMEOUT_MS,
);

testOnce(
  'a game server counts each of 100,000 random datagrams as accepted or malformed, and goes on',
  async () => {
    const server = await stage.gameServer({ id: 1 });
    const { validByClient } = await flood(server.endpoint, 2, 'to the game server');
    const player = stage.player('127.20.0.2:0', server.endpoint);
    await player.start();
    await player.stop();
    await until('the last answer', () => player.unanswered === 0);
    const { received, accepted, malformed } = await summaryOf(server);
    expect(received).toBe(DATAGRAMS + player.answered);
    expect(accepted! + malformed!).toBe(received);
    expect(accepted).toBe(validByClient[0]! + validByClient[1]! + player.answered);
  },
  TIMEOUT_MS,
);
