import { afterEach, describe, expect, test } from 'vitest';
import type { GameServerOptions } from '../../../gameserver/game-server.ts';
import { GameServer } from '../../../gameserver/game-server.ts';
import { Endpoint } from '../../../net/address.ts';
import type {
  DatagramSocket,
  DatagramSocketOptions,
  OpenDatagramSocket,
} from '../../../net/datagram-socket.ts';
import { DatagramBatch } from '../../../net/datagram-socket.ts';
import { MemoryNetwork } from '../../../net/memory-socket.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { CODECS, CODEC_NAMES, type CodecName } from '../../../wire/codec.ts';
import type { PositionUpdate } from '../../../wire/position-update.ts';
import { createWorldState, encodeWorldState } from '../../../wire/world-state.ts';

const SERVER = Endpoint.parse('10.0.0.3:7777');
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

function serve(options: Partial<GameServerOptions> & Pick<GameServerOptions, 'openSocket'>): GameServer {
  const server = new GameServer({
    listen: SERVER,
    serverId: 3,
    codec: CODECS.binary,
    reply: 'immediate',
    tickHz: 128,
    matchPlayers: 10,
    forgetMs: 10_000,
    ...options,
  });
  closers.push(() => server.close());
  return server;
}

/** A player: sends updates from one address, and collects what comes back. */
class Player {
  readonly received: Uint8Array[] = [];
  readonly #codec: CodecName;
  readonly #socket: DatagramSocket;

  constructor(network: MemoryNetwork, address: string, codec: CodecName = 'binary') {
    this.#codec = codec;
    this.#socket = network.open({
      local: Endpoint.parse(address),
      onReceive: (batch) => this.received.push(batch.payloads[0]!.slice(0, batch.lengths[0])),
    });
  }

  send(update: PositionUpdate): void {
    const bytes = new Uint8Array(CODECS[this.#codec].maxUpdateBytes);
    this.sendBytes(bytes.subarray(0, CODECS[this.#codec].encodeUpdate(update, bytes)));
  }

  sendBytes(bytes: Uint8Array): void {
    const batch = new DatagramBatch(1);
    batch.append(bytes, bytes.length, SERVER.ip.words, 0, SERVER.port);
    this.#socket.send(batch);
  }

  /** The world states so far, taken away: serverId, tick and the players' ids. */
  take(): { serverId: number; tick: number; ids: number[] }[] {
    return this.received.splice(0).map((bytes) => {
      const state = createWorldState();
      expect(CODECS[this.#codec].decodeWorld(bytes, bytes.length, state)).toBe(true);
      const { serverId, tick, count } = state;
      return { serverId, tick, ids: state.players.slice(0, count).map((player) => player.playerId) };
    });
  }
}

/** A socket whose batches the test hands over: it takes `room` datagrams of each batch and remembers their sizes. */
class BatchSocket implements DatagramSocket {
  readonly local = SERVER;
  readonly sizes: number[] = [];
  readonly #room: number;
  #options: DatagramSocketOptions | undefined;

  constructor(room = Number.POSITIVE_INFINITY) {
    this.#room = room;
  }

  readonly open: OpenDatagramSocket = (options) => {
    this.#options = options;
    return this;
  };

  receive(batch: DatagramBatch): void {
    this.#options?.onReceive(batch);
  }

  send(batch: DatagramBatch): number {
    const taken = Math.min(batch.count, this.#room);
    this.sizes.push(batch.count);
    this.#options?.onSent?.(taken, 0, 0);
    return taken;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

const at = (playerId: number): PositionUpdate => ({ playerId, x: 1, y: 2, z: 3 });

describe('in reply mode immediate', () => {
  test('an update is answered, byte for byte, with the world state', () => {
    const network = new MemoryNetwork();
    serve({ openSocket: network.open, now: () => 0 });
    const player = new Player(network, '10.0.0.9:5000');
    player.sendBytes(Uint8Array.from(Buffer.from('002a3f8000004000000040400000', 'hex')));
    network.deliver();
    expect(player.received.map((bytes) => Buffer.from(bytes).toString('hex'))).toEqual([
      '0003' + '00000000' + '0001' + '002a3f8000004000000040400000',
    ]);
  });

  test('players of one match see each other, own record first, and nobody else', () => {
    const network = new MemoryNetwork();
    serve({ openSocket: network.open });
    const players = [1, 5, 11].map((id) => new Player(network, `10.0.0.9:${5000 + id}`));
    for (let round = 0; round < 2; round++) {
      players[0]!.send(at(1));
      players[1]!.send(at(5));
      players[2]!.send(at(11));
      network.deliver();
    }
    expect(players.map((player) => player.take()[1]?.ids)).toEqual([[1, 5], [5, 1], [11]]);
  });

  test('each datagram is answered to where it came from, also for two players behind one address', () => {
    const network = new MemoryNetwork();
    serve({ openSocket: network.open });
    const first = new Player(network, '10.0.0.9:5000');
    const second = new Player(network, '10.0.0.9:5001');
    first.send(at(1));
    second.send(at(2));
    network.deliver();
    expect(first.take().map(({ ids }) => ids[0])).toEqual([1]);
    expect(second.take().map(({ ids }) => ids[0])).toEqual([2]);
  });

  test('the tick number rises with the clock', () => {
    const network = new MemoryNetwork();
    let nowMs = 1_000;
    serve({ openSocket: network.open, now: () => nowMs });
    const player = new Player(network, '10.0.0.9:5000');
    for (const elapsedMs of [0, 7.8, 7.82, 1_000]) {
      nowMs = 1_000 + elapsedMs;
      player.send(at(1));
      network.deliver();
    }
    expect(player.take().map(({ tick }) => tick)).toEqual([0, 0, 1, 128]);
  });

  test.each(CODEC_NAMES)('the %s codec is spoken in both directions', (name) => {
    const network = new MemoryNetwork();
    const server = serve({ openSocket: network.open, codec: CODECS[name] });
    const player = new Player(network, '10.0.0.9:5000', name);
    player.send(at(7));
    network.deliver();
    expect(player.take()).toMatchObject([{ serverId: 3, ids: [7] }]);
    expect(server.counts).toMatchObject({ received: 1, accepted: 1, malformed: 0, sent: 1 });
  });
});

describe('in reply mode tick', () => {
  /** A server whose ticks the test calls. */
  function serveTicked(network: MemoryNetwork): { server: GameServer; wake: (nowMs: number) => void } {
    let nowMs = 0;
    let wakeTicker: (startMs: number) => void = () => undefined;
    const server = serve({
      openSocket: network.open,
      reply: 'tick',
      tickHz: 100,
      now: () => nowMs,
      metronome: (_periodMs, _now, wake) => {
        wakeTicker = wake;
        return () => undefined;
      },
    });
    const wake = (toMs: number): void => {
      nowMs = toMs;
      wakeTicker(0);
      network.deliver();
    };
    return { server, wake };
  }

  test('an update alone is not answered; each tick answers every live player', () => {
    const network = new MemoryNetwork();
    const { wake } = serveTicked(network);
    const players = [1, 2].map((id) => new Player(network, `10.0.0.9:${5000 + id}`));
    players[0]!.send(at(1));
    players[1]!.send(at(2));
    network.deliver();
    expect(players[0]!.take()).toEqual([]);
    wake(0);
    wake(10);
    expect(players[0]!.take()).toEqual([
      { serverId: 3, tick: 0, ids: [1, 2] },
      { serverId: 3, tick: 1, ids: [1, 2] },
    ]);
    expect(players[1]!.take().map(({ ids }) => ids)).toEqual([
      [2, 1],
      [2, 1],
    ]);
  });

  test('a player is answered where the last update came from', () => {
    const network = new MemoryNetwork();
    const { wake } = serveTicked(network);
    const before = new Player(network, '10.0.0.9:5000');
    const after = new Player(network, '10.0.0.10:6000');
    before.send(at(1));
    after.send(at(1));
    network.deliver();
    wake(0);
    expect(before.take()).toEqual([]);
    expect(after.take()).toMatchObject([{ ids: [1] }]);
  });

  test('more players than one batch holds are all answered', () => {
    const network = new MemoryNetwork();
    const { server, wake } = serveTicked(network);
    const player = new Player(network, '10.0.0.9:5000');
    for (let id = 0; id < 200; id++) player.send(at(id));
    network.deliver();
    wake(0);
    expect(new Set(player.take().map(({ ids }) => ids[0])).size).toBe(200);
    expect(server.counts).toMatchObject({ sent: 200, sendQueueFull: 0, players: 200 });
  });

  test('late and skipped ticks are counted', () => {
    const network = new MemoryNetwork();
    const { server, wake } = serveTicked(network);
    wake(0);
    wake(35);
    wake(41);
    expect(server.counts).toMatchObject({ ticks: 3, lateTicks: 0, skippedTicks: 2 });
  });
});

describe('what arrives', () => {
  test('of 100,000 random datagrams is accepted or malformed, and nothing else', () => {
    const socket = new BatchSocket();
    const server = serve({ openSocket: socket.open });
    const random = mulberry32(1);
    const noise = Uint8Array.from({ length: 4_096 }, () => random() * 256);
    const batch = new DatagramBatch(50);
    let expected = 0;
    for (let i = 0; i < 100_000; i++) {
      const length = i % 2 === 0 ? 14 : Math.floor(random() * 64);
      const start = Math.floor(random() * (noise.length - length));
      const bytes = noise.subarray(start, start + length);
      if (isUpdate(bytes)) expected++;
      batch.append(bytes, length, SERVER.ip.words, 0, 5_000);
      if (batch.count < batch.capacity) continue;
      socket.receive(batch);
      batch.clear();
    }
    const { received, accepted, malformed, sent } = server.counts;
    expect(received).toBe(100_000);
    expect(accepted + malformed).toBe(100_000);
    expect(accepted).toBe(expected);
    expect(sent).toBe(accepted);
    expect(malformed).toBeGreaterThan(40_000);
  });

  test('malformed is never answered: empty, one byte short, one too many, 65,507 bytes, a world state', () => {
    const network = new MemoryNetwork();
    const server = serve({ openSocket: network.open });
    const player = new Player(network, '10.0.0.9:5000');
    const state = new Uint8Array(22);
    encodeWorldState({ ...createWorldState(), count: 1 }, state);
    for (const length of [0, 13, 15, 65_507]) player.sendBytes(new Uint8Array(length));
    player.sendBytes(state);
    network.deliver();
    expect(player.received).toEqual([]);
    expect(server.counts).toMatchObject({ received: 5, accepted: 0, malformed: 5, sent: 0, players: 0 });
  });
});

describe('with a socket that moves batches', () => {
  function updates(count: number): DatagramBatch {
    const batch = new DatagramBatch(count);
    for (let id = 0; id < count; id++) {
      const bytes = new Uint8Array(14);
      CODECS.binary.encodeUpdate(at(id), bytes);
      batch.append(bytes, bytes.length, SERVER.ip.words, 0, 5_000 + id);
    }
    return batch;
  }

  test('a batch in is a batch out', () => {
    const socket = new BatchSocket();
    serve({ openSocket: socket.open });
    socket.receive(updates(30));
    expect(socket.sizes).toEqual([30]);
  });

  test('a batch larger than the replies is answered in several', () => {
    const socket = new BatchSocket();
    serve({ openSocket: socket.open });
    socket.receive(updates(150));
    expect(socket.sizes).toEqual([64, 64, 22]);
  });

  test('replies that met a full queue are counted', () => {
    const socket = new BatchSocket(10);
    const server = serve({ openSocket: socket.open });
    socket.receive(updates(30));
    expect(server.counts).toMatchObject({ accepted: 30, sent: 10, sendQueueFull: 20 });
  });
});

test('a port already taken is a RelayError that names it', () => {
  const network = new MemoryNetwork();
  serve({ openSocket: network.open });
  expect(() => serve({ openSocket: network.open })).toThrow(RelayError);
  expect(() => serve({ openSocket: network.open })).toThrow('10.0.0.3:7777');
});

test('closing twice is closing once', async () => {
  const network = new MemoryNetwork();
  const server = serve({ openSocket: network.open });
  await Promise.all([server.close(), server.close()]);
  expect(() => serve({ openSocket: network.open })).not.toThrow();
});

/** The naive twin of the decoder. */
function isUpdate(bytes: Uint8Array): boolean {
  if (bytes.length !== 14) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, 14);
  return [2, 6, 10].every((offset) => Number.isFinite(view.getFloat32(offset)));
}

/** A small seeded generator (mulberry32), uniform in [0, 1). */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
