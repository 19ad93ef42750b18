import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Measurement } from '../../../botclient/measurement.ts';
import { PlayerGroup, type ReplyMode } from '../../../botclient/player.ts';
import { RING_UPDATES } from '../../../botclient/sent-ring.ts';
import { Endpoint, IpAddress } from '../../../net/address.ts';
import { binaryCodec } from '../../../wire/binary-codec.ts';
import { ScriptedSocket, TARGET } from './scripted-socket.ts';

const PERIOD_MS = 8;

/** Player 7 with a clock that stands where it is put. */
function setUp(reply: ReplyMode = 'immediate') {
  const socket = new ScriptedSocket();
  const measurement = new Measurement();
  const clock = { ms: 0 };
  const context = {
    target: TARGET,
    codec: binaryCodec,
    reply,
    seed: 1,
    measurement,
    openSocket: socket.open,
    now: () => clock.ms,
  };
  const player = new PlayerGroup(context, 1).add(7, IpAddress.parse('127.1.0.1'));
  /** Sends the updates of ticks 0 to count - 1, each `lateMs` late. */
  const sendTicks = (count: number, lateMs = 0): void => {
    for (let tick = 0; tick < count; tick++) {
      clock.ms = tick * PERIOD_MS + lateMs;
      player.send(tick, tick * PERIOD_MS, true);
    }
  };
  return { socket, measurement, counts: measurement.counts, clock, player, sendTicks };
}

test('an answer is matched by its position, and its round trip starts when the update was due', () => {
  const { socket, measurement, counts, clock, sendTicks } = setUp();
  sendTicks(3, 1.5);
  clock.ms = 2 * PERIOD_MS + 2.25;
  socket.answer(socket.updates[2]!);
  expect(counts).toMatchObject({ intended: 3, sent: 3, received: 1, matched: 1, bytesUp: 42, bytesDown: 22 });
  expect(measurement.roundTripUs.maxValue).toBe(2250);
  expect(measurement.sendLagUs.minNonZeroValue).toBe(1500);
});

test('an update sent late because the generator was late has the wait in its round trip', () => {
  const { socket, measurement, clock, player } = setUp();
  clock.ms = 60;
  player.send(0, 0, true);
  clock.ms = 60.5;
  socket.answer(socket.updates[0]!);
  expect(measurement.roundTripUs.maxValue).toBe(60_500);
});

test('a second answer to an update is a duplicate and records no round trip', () => {
  const { socket, measurement, counts, sendTicks } = setUp();
  sendTicks(1);
  socket.answer(socket.updates[0]!, { tick: 5 });
  socket.answer(socket.updates[0]!, { tick: 6 });
  expect(counts).toMatchObject({ received: 2, matched: 1, duplicates: 1 });
  expect(measurement.roundTripUs.totalCount).toBe(1);
});

test('an answer to an older update than the newest answered is reordered', () => {
  const { socket, counts, sendTicks } = setUp();
  sendTicks(3);
  for (const tick of [0, 2, 1]) socket.answer(socket.updates[tick]!);
  expect(counts).toMatchObject({ matched: 3, reordered: 1 });
});

test('a position that this player never sent is unknown', () => {
  const { socket, counts, sendTicks } = setUp();
  sendTicks(2);
  socket.answer({ playerId: 7, x: 1, y: 2, z: 3 });
  expect(counts).toMatchObject({ received: 1, unknown: 1, matched: 0 });
});

test('an answer to an update that is too old to be remembered is unknown', () => {
  const { socket, counts, sendTicks } = setUp();
  sendTicks(RING_UPDATES + 1);
  socket.answer(socket.updates[0]!);
  socket.answer(socket.updates[1]!);
  expect(counts).toMatchObject({ unknown: 1, matched: 1 });
});

test('a world state whose own record is another player is foreign', () => {
  const { socket, counts, sendTicks } = setUp();
  sendTicks(1);
  socket.answer({ ...socket.updates[0]!, playerId: 8 });
  expect(counts).toMatchObject({ received: 1, foreign: 1, matched: 0 });
});

test('bytes that are no world state are malformed', () => {
  const { socket, counts, sendTicks } = setUp();
  sendTicks(1);
  for (const hex of ['', '00', '0001000000000001ffff']) socket.receive(Buffer.from(hex, 'hex'));
  expect(counts).toMatchObject({ received: 3, malformed: 3 });
});

test('a datagram from another address or port than the target is not looked at', () => {
  const { socket, counts, player, sendTicks } = setUp();
  sendTicks(1);
  socket.answer(socket.updates[0]!, { from: Endpoint.parse('127.0.0.2:7777') });
  socket.answer(socket.updates[0]!, { from: Endpoint.parse('127.0.0.1:7778') });
  expect(counts).toMatchObject({ received: 2, wrongSource: 2, matched: 0 });
  expect(player.serverId).toBeUndefined();
});

test('an update that meets a full queue is refused, and is no loss', () => {
  const { socket, counts, clock, player } = setUp();
  player.send(0, 0, true);
  socket.isFull = true;
  clock.ms = PERIOD_MS;
  player.send(1, PERIOD_MS, true);
  expect(counts).toMatchObject({ intended: 2, sent: 1, refused: 1 });
});

test('updates of the warm-up are in no count but their own', () => {
  const { socket, measurement, counts, player } = setUp();
  player.send(0, 0, false);
  socket.answer(socket.updates[0]!);
  expect(counts).toMatchObject({ intended: 0, sent: 0, received: 0, matched: 0, warmup: 1, bytesUp: 0 });
  expect(measurement.roundTripUs.totalCount).toBe(0);
  expect(player.serverId).toBe(1);
});

test('a change of server is counted once and remembered', () => {
  const { socket, counts, player, sendTicks } = setUp();
  sendTicks(4);
  socket.answer(socket.updates[0]!, { serverId: 1 });
  socket.answer(socket.updates[1]!, { serverId: 2 });
  socket.answer(socket.updates[2]!, { serverId: 2 });
  expect(counts.wrongServer).toBe(1);
  expect(player).toMatchObject({ serverId: 2, moves: 1 });
});

test('a late answer by the former server is no change of server', () => {
  const { socket, counts, player, sendTicks } = setUp();
  sendTicks(3);
  socket.answer(socket.updates[0]!, { serverId: 1 });
  socket.answer(socket.updates[2]!, { serverId: 2 });
  socket.answer(socket.updates[1]!, { serverId: 1 });
  expect(counts).toMatchObject({ wrongServer: 1, matched: 3 });
  expect(player.serverId).toBe(2);
});

test('one update that strays to another server is counted, there and back', () => {
  const { socket, counts, player, sendTicks } = setUp();
  sendTicks(3);
  for (const [tick, serverId] of [1, 2, 1].entries()) socket.answer(socket.updates[tick]!, { serverId });
  expect(counts.wrongServer).toBe(2);
  expect(player.serverId).toBe(1);
});

test('with a server that answers each tick, what a newer answer overtook is superseded, not lost', () => {
  const { socket, counts, sendTicks } = setUp('tick');
  sendTicks(5);
  socket.answer(socket.updates[0]!, { tick: 1 });
  socket.answer(socket.updates[3]!, { tick: 2 });
  expect(counts).toMatchObject({ sent: 5, matched: 2, superseded: 2 });
});

test('with a server that answers each tick, a late answer takes its update back from the superseded', () => {
  const { socket, counts, sendTicks } = setUp('tick');
  sendTicks(3);
  socket.answer(socket.updates[2]!, { tick: 3 });
  socket.answer(socket.updates[1]!, { tick: 2 });
  expect(counts).toMatchObject({ matched: 2, superseded: 1, reordered: 1 });
});

test('with a server that answers each tick, the same update in a later tick is repeated; in the same tick, a duplicate', () => {
  const { socket, counts, sendTicks } = setUp('tick');
  sendTicks(1);
  for (const tick of [1, 2, 2]) socket.answer(socket.updates[0]!, { tick });
  expect(counts).toMatchObject({ received: 3, matched: 1, repeated: 1, duplicates: 1 });
});

test('whatever arrives in whatever order, the sums hold', () => {
  const arrival = fc.oneof(
    fc.record({ kind: fc.constant('answer' as const), tick: fc.nat(19), serverTick: fc.nat(3) }),
    fc.record({ kind: fc.constant('foreign' as const), tick: fc.nat(19), serverTick: fc.nat(3) }),
    fc.record({ kind: fc.constant('noise' as const), bytes: fc.uint8Array({ maxLength: 40 }) }),
  );
  fc.assert(
    fc.property(
      fc.constantFrom<ReplyMode>('immediate', 'tick'),
      fc.array(arrival, { maxLength: 80 }),
      (reply, arrivals) => {
        const { socket, measurement, counts, sendTicks } = setUp(reply);
        sendTicks(20);
        for (const arrived of arrivals) {
          if (arrived.kind === 'noise') socket.receive(arrived.bytes);
          else {
            const playerId = arrived.kind === 'answer' ? 7 : 9;
            socket.answer({ ...socket.updates[arrived.tick]!, playerId }, { tick: arrived.serverTick });
          }
        }
        const answered = arrivals.flatMap((arrived) => (arrived.kind === 'answer' ? [arrived.tick] : []));
        const distinct = new Set(answered);
        const newest = Math.max(-1, ...answered);
        expect(counts.matched).toBe(distinct.size);
        expect(counts.duplicates + counts.repeated).toBe(answered.length - distinct.size);
        expect(counts.superseded).toBe(reply === 'tick' ? newest + 1 - distinct.size : 0);
        expect(counts.received).toBe(arrivals.length);
        const { matched, duplicates, repeated, unknown, malformed, foreign, wrongSource } = counts;
        expect(counts.received).toBe(
          matched + duplicates + repeated + unknown + malformed + foreign + wrongSource,
        );
        expect(measurement.roundTripUs.totalCount).toBe(matched);
      },
    ),
  );
});
