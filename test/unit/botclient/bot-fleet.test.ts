import { decodeFromCompressedBase64 } from 'hdr-histogram-js';
import { afterAll, describe, expect, test } from 'vitest';
import { BotFleet, type BotFleetOptions } from '../../../botclient/bot-fleet.ts';
import type { BotSummary } from '../../../botclient/report.ts';
import { Endpoint } from '../../../net/address.ts';
import { DatagramBatch, type DatagramSocket, type OpenDatagramSocket } from '../../../net/datagram-socket.ts';
import { loadLibc } from '../../../net/linux/libc.ts';
import { MemoryNetwork } from '../../../net/memory-socket.ts';
import { chooseSocket } from '../../../net/socket-choice.ts';
import type { Metronome } from '../../../net/ticker.ts';
import { type Codec, CODECS } from '../../../wire/codec.ts';
import { createWorldState } from '../../../wire/world-state.ts';

const SLOT_MS = 1000 / 128 / 8;

const plan = {
  players: 20,
  tickHz: 128,
  rampMs: 0,
  warmupMs: 0,
  durationMs: 125,
  graceMs: 0,
  codec: CODECS.binary,
  reply: 'immediate',
  seed: 1,
  firstPlayer: 0,
} as const;

/** Answers each update at once with a world state of one player. */
function openEchoServer(open: OpenDatagramSocket, local: Endpoint, codec: Codec): DatagramSocket {
  const world = createWorldState();
  const replies = new DatagramBatch(1);
  const bytes = new Uint8Array(codec.maxWorldBytes);
  const socket = open({
    local,
    onReceive: (batch) => {
      for (let i = 0; i < batch.count; i++) {
        expect(codec.decodeUpdate(batch.payloads[i]!, batch.lengths[i]!, world.players[0]!)).toBe(true);
        Object.assign(world, { serverId: 3, tick: world.tick + 1, count: 1 });
        replies.clear();
        replies.append(bytes, codec.encodeWorld(world, bytes), batch.words, i * 4, batch.ports[i]!);
        socket.send(replies);
      }
    },
  });
  return socket;
}

/** A fleet and a server on a network in memory, and a clock that is moved by hand. */
function setUp(changes: Partial<BotFleetOptions> = {}) {
  const network = new MemoryNetwork();
  const target = Endpoint.parse('127.0.0.1:7777');
  openEchoServer(network.open, target, plan.codec);
  let nowMs = 0;
  let wake: (startMs: number) => void = () => undefined;
  const metronome: Metronome = (_periodMs, _now, wakeTicker) => {
    wake = wakeTicker;
    return () => undefined;
  };
  const fleet = new BotFleet({
    ...plan,
    target,
    openSocket: network.open,
    now: () => nowMs,
    metronome,
    ...changes,
  });
  /** Lets time pass, waking the fleet every slot and delivering what was sent. */
  const pass = (ms: number): void => {
    for (const end = nowMs + ms; nowMs < end;) {
      nowMs += SLOT_MS;
      wake(0);
      network.deliver();
    }
  };
  /** Lets time pass without waking the fleet: its loop is busy. */
  const stall = (ms: number): void => void (nowMs += ms);
  return { fleet, network, pass, stall };
}

function expectSums(summary: BotSummary): void {
  const { intended, sent, skipped, refused, matched, superseded, lost, received } = summary;
  const { duplicates, repeated, unknown, malformed, foreign, wrongSource } = summary;
  expect(sent + skipped + refused).toBe(intended);
  expect(matched + superseded + lost).toBe(sent);
  expect(matched + duplicates + repeated + unknown + malformed + foreign + wrongSource).toBe(received);
}

describe('on a network in memory', () => {
  test('every player sends each tick from its own address, and every answer is matched', async () => {
    const { fleet, network, pass } = setUp();
    const senders = new Set<string>();
    network.fault = (from) => {
      senders.add(from.ip.toString());
      return 1;
    };
    fleet.start();
    pass(200);
    const summary = await fleet.finished;
    expect(summary).toMatchObject({
      players: 20,
      durationMs: 125,
      intended: 320,
      sent: 320,
      matched: 320,
      lost: 0,
      wrongServer: 0,
      askedPerSecond: 2560,
      achievedPerSecond: 2560,
      servers: { 3: 20 },
      unansweredPlayers: 0,
      generator: { ok: true },
    });
    expectSums(summary);
    expect([...senders]).toContain('127.1.0.20');
    expect(senders.size).toBe(21);
    expect(decodeFromCompressedBase64(summary.roundTripHistogram).totalCount).toBe(320);
    expect(decodeFromCompressedBase64(summary.sendLagHistogram).totalCount).toBe(320);
  });

  test('lost and doubled datagrams are counted as such', async () => {
    const { fleet, network, pass } = setUp();
    let answers = 0;
    network.fault = (from) => {
      if (from.port !== 7777) return 1;
      answers++;
      return answers % 10 === 0 ? 0 : answers % 10 === 5 ? 2 : 1;
    };
    fleet.start();
    pass(200);
    const summary = await fleet.finished;
    expect(summary).toMatchObject({ sent: 320, lost: 32, loss: 0.1, matched: 288, duplicates: 32 });
    expectSums(summary);
  });

  test('players join over the ramp, and neither ramp nor warm-up is measured', async () => {
    const { fleet, pass } = setUp({ rampMs: 62.5, warmupMs: 62.5 });
    fleet.start();
    pass(30);
    expect(fleet.progress()).toMatchObject({ phase: 'ramp', players: 10, sent: 0 });
    pass(40);
    expect(fleet.progress()).toMatchObject({ phase: 'warm-up', players: 20, sent: 0 });
    pass(200);
    const summary = await fleet.finished;
    // A player joins later in the ramp the higher its number: 8 ticks of warm-up each, and 4 of ramp on average.
    expect(summary).toMatchObject({ intended: 320, sent: 320, matched: 320, warmup: 20 * 8 + 92 });
    expectSums(summary);
  });

  test('after a short stall every update is sent late, and its round trip holds the wait', async () => {
    const { fleet, pass, stall } = setUp();
    fleet.start();
    pass(40);
    stall(50);
    pass(200);
    const summary = await fleet.finished;
    expect(summary).toMatchObject({ sent: 320, skipped: 0, matched: 320 });
    expect(summary.sendLagUs.max).toBeGreaterThanOrEqual(50_000);
    expect(summary.roundTripUs.max).toBeGreaterThanOrEqual(50_000);
    expect(summary.generator).toMatchObject({ ok: false });
    expectSums(summary);
  });

  test('after a long stall the updates that are too late are skipped, counted, and held against the generator', async () => {
    const { fleet, pass, stall } = setUp({ durationMs: 1000 });
    fleet.start();
    pass(40);
    stall(500);
    pass(1000);
    const summary = await fleet.finished;
    expect(summary.intended).toBe(2560);
    expect(summary.skipped).toBeGreaterThan(900);
    expect(summary.achievedPerSecond).toBeLessThan(summary.askedPerSecond * 0.7);
    expect(summary.generator.ok).toBe(false);
    expect(summary.generator.verdict).toMatch(/^too slow: it sent \d/);
    expectSums(summary);
  });

  test('a stop ends early with what was measured so far, and may be repeated', async () => {
    const { fleet, pass } = setUp({ durationMs: Infinity });
    fleet.start();
    pass(61);
    const stopped = fleet.stop();
    pass(20);
    const summary = await stopped;
    expect(await fleet.stop()).toBe(summary);
    expect(summary.sent).toBe(160);
    expect(summary.achievedPerSecond).toBe(2560);
    expectSums(summary);
  });

  test('a stop before the first measured tick gives a summary without figures', async () => {
    const { fleet, pass } = setUp({ rampMs: 1000 });
    fleet.start();
    pass(30);
    const summary = await fleet.stop();
    expect(summary).toMatchObject({ intended: 0, sent: 0, loss: 0, achievedPerSecond: 0 });
    expect(summary.generator.ok).toBe(false);
    expectSums(summary);
  });

  test('when one address is taken, none stays bound', () => {
    const network = new MemoryNetwork();
    const closed: string[] = [];
    const openSocket: OpenDatagramSocket = (options) => {
      const address = options.local.ip.toString();
      if (address === '127.1.0.3') throw new Error('taken');
      const { local } = network.open(options);
      const close = (): Promise<void> => {
        closed.push(address);
        return Promise.resolve();
      };
      return { local, send: () => 0, close };
    };
    const { fleet } = setUp({ openSocket });
    expect(() => fleet.start()).toThrow('taken');
    expect(closed).toEqual(['127.1.0.1', '127.1.0.2']);
  });
});

describe.each(['dgram', 'mmsg'] as const)('on real %s sockets', (kind) => {
  const available = loadLibc();
  if (kind === 'mmsg' && 'unavailable' in available) {
    test.skip(`skipped: ${available.unavailable}`, () => undefined);
    return;
  }
  const chosen = chooseSocket(kind);
  const { open: openSocket, metronome } = chosen;
  afterAll(() => chosen.close());

  test.each(Object.values(CODECS))('20 players play on loopback in $name', async (codec) => {
    const server = openEchoServer(openSocket, Endpoint.parse('127.0.0.1:0'), codec);
    const fleet = new BotFleet({
      ...plan,
      codec,
      target: server.local,
      durationMs: 250,
      graceMs: 500,
      openSocket,
      metronome,
    });
    fleet.start();
    const summary = await fleet.finished;
    await server.close();
    expect(summary).toMatchObject({ malformed: 0, unknown: 0, foreign: 0, wrongSource: 0, wrongServer: 0 });
    expect(summary.servers).toEqual({ 3: 20 });
    expect(summary.matched).toBeGreaterThan(0);
    expect(new Set(fleet.players.map(({ local }) => local.ip.toString())).size).toBe(20);
    expectSums(summary);
  });

  test('players reach a server on IPv6 loopback', async () => {
    const server = openEchoServer(openSocket, Endpoint.parse('[::1]:0'), plan.codec);
    const fleet = new BotFleet({ ...plan, target: server.local, graceMs: 500, openSocket, metronome });
    fleet.start();
    const summary = await fleet.finished;
    await server.close();
    expect(summary.matched).toBeGreaterThan(0);
    expect(summary.wrongSource).toBe(0);
  });

  test('without a server nothing is answered, and everything is lost', async () => {
    const silent = openSocket({ local: Endpoint.parse('127.0.0.1:0'), onReceive: () => undefined });
    const fleet = new BotFleet({ ...plan, target: silent.local, openSocket, metronome });
    fleet.start();
    const summary = await fleet.finished;
    await silent.close();
    expect(summary).toMatchObject({ matched: 0, received: 0, servers: {}, unansweredPlayers: 20 });
    expect(summary.lost).toBe(summary.sent);
  });
});
