/**
 * One simulated player: a socket, a path, and the last updates it sent. It sends when told to and sorts what arrives.
 *
 * What a datagram is counted as, the first that fits:
 *   1. not from the target             -> wrongSource
 *   2. no world state                  -> malformed
 *   3. own record of another player    -> foreign
 *   4. a position it never sent        -> unknown
 *   5. of an update of the warm-up     -> warmup
 *   6. of an update not answered yet   -> matched, and its round trip is recorded
 *   7. of an answered one              -> repeated (a later tick of a server that answers each tick) or duplicates
 */
import { ADDRESS_WORDS, Endpoint, type IpAddress } from '../net/address.ts';
import { DatagramBatch, type DatagramSocket, type OpenDatagramSocket } from '../net/datagram-socket.ts';
import { type Codec, CODECS } from '../wire/codec.ts';
import { createPositionUpdate } from '../wire/position-update.ts';
import { createWorldState } from '../wire/world-state.ts';
import type { Measurement } from './measurement.ts';
import { PATH_DOUBLES, PlayerPath } from './path.ts';
import { ANSWERED, AWAITED, SentRecords, SentRing, SUPERSEDED, WARMUP } from './sent-ring.ts';

/** How the server answers: `immediate`, each update at once; `tick`, every player once a tick. */
export const REPLY_MODES = ['immediate', 'tick'] as const;
export type ReplyMode = (typeof REPLY_MODES)[number];

/** What the players of a fleet have in common. */
export interface PlayerContext {
  readonly target: Endpoint;
  readonly codec: Codec;
  readonly reply: ReplyMode;
  readonly seed: number;
  readonly measurement: Measurement;
  readonly openSocket: OpenDatagramSocket;
  /** Monotonic clock in ms. */
  readonly now: () => number;
}

/** The players of a fleet, whose sockets have one handler for each event, so that a call can be about several of them. */
export class PlayerGroup {
  readonly context: PlayerContext;
  /** By the tags of their sockets. */
  readonly players: Player[] = [];
  /** What the players remember, side by side. */
  readonly paths: Float64Array;
  readonly sent: SentRecords;

  /** @param size the most players that will be added */
  constructor(context: PlayerContext, size: number) {
    this.context = context;
    this.paths = new Float64Array(size * PATH_DOUBLES);
    this.sent = new SentRecords(size);
  }

  /** Binds `address` with a port that the system chooses. @throws RelayError TICKRELAY_ERR_BIND */
  add(playerId: number, address: IpAddress): Player {
    const player = new Player(playerId, address, this);
    this.players.push(player);
    return player;
  }

  readonly onReceive = (batch: DatagramBatch): void => {
    const nowMs = this.context.now();
    const { count, tags } = batch;
    for (let i = 0; i < count; i++) this.players[tags[i]!]!.receive(batch, i, nowMs);
  };

  readonly onSent = (_sent: number, failed: number): void => {
    this.context.measurement.counts.sendFailed += failed;
  };

  readonly onError = (): void => {
    this.context.measurement.counts.receiveErrors++;
  };
}

// Overwritten by each datagram of any player, rather than kept for each: hundreds of players are more than a cache holds.
const world = createWorldState();
const update = createPositionUpdate();
const updateBytes = new Uint8Array(Math.max(...Object.values(CODECS).map((codec) => codec.maxUpdateBytes)));
const outgoing = new DatagramBatch(1);

export class Player {
  readonly playerId: number;
  readonly #context: PlayerContext;
  readonly #path: PlayerPath;
  readonly #socket: DatagramSocket;
  readonly #ring: SentRing;

  #newestAnswered = -1;
  #serverId: number | undefined;
  /** The first update that the current server answered; answers to older ones may still come from the one before. */
  #serverSince = 0;
  #moves = 0;

  /** By `PlayerGroup.add`. */
  constructor(playerId: number, address: IpAddress, group: PlayerGroup) {
    const { context, onReceive, onSent, onError } = group;
    this.playerId = playerId;
    this.#context = context;
    const number = group.players.length;
    this.#path = new PlayerPath(context.seed, playerId, group.paths, number * PATH_DOUBLES);
    this.#ring = new SentRing(group.sent, number);
    this.#socket = context.openSocket({
      local: new Endpoint(address, 0),
      remote: context.target,
      tag: number,
      onReceive,
      onSent,
      onError,
    });
  }

  /** The bound address and port. */
  get local(): Endpoint {
    return this.#socket.local;
  }

  /** The server that answered last; undefined before the first answer. */
  get serverId(): number | undefined {
    return this.#serverId;
  }

  /** How often that server changed. */
  get moves(): number {
    return this.#moves;
  }

  /** Sends the update of `tick`, which should have left at `intendedMs`. */
  send(tick: number, intendedMs: number, isMeasured: boolean): void {
    const { target, codec, measurement, now } = this.#context;
    update.playerId = this.playerId;
    this.#path.positionAt(tick, update);
    const length = codec.encodeUpdate(update, updateBytes);
    outgoing.clear();
    outgoing.append(updateBytes, length, target.ip.words, 0, target.port);
    const lagMs = now() - intendedMs;
    const isSent = this.#socket.send(outgoing) === 1;
    if (isSent) this.#ring.push(update, intendedMs, isMeasured ? AWAITED : WARMUP);
    if (isMeasured) measurement.countUpdate(isSent, length, lagMs);
  }

  close(): Promise<void> {
    return this.#socket.close();
  }

  /** Sorts datagram `index` of a batch, which this player's socket received. */
  receive(batch: DatagramBatch, index: number, nowMs: number): void {
    const { codec, measurement } = this.#context;
    const { counts } = measurement;
    const length = batch.lengths[index]!;
    const own = world.players[0]!;
    let sequence = -1;
    if (!this.#isFromTarget(batch, index)) counts.wrongSource++;
    else if (!codec.decodeWorld(batch.payloads[index]!, length, world)) counts.malformed++;
    else if (own.playerId !== this.playerId) counts.foreign++;
    else if ((sequence = this.#ring.find(own)) === -1) counts.unknown++;
    if (sequence !== -1) {
      this.#noteServer(sequence);
      const isWarmup = this.#ring.state(sequence) === WARMUP;
      if (isWarmup) counts.warmup++;
      else this.#match(sequence, nowMs);
      this.#newestAnswered = Math.max(this.#newestAnswered, sequence);
      if (isWarmup) return;
    }
    counts.received++;
    counts.bytesDown += length;
  }

  #isFromTarget({ words, ports }: DatagramBatch, index: number): boolean {
    const { target } = this.#context;
    const at = index * ADDRESS_WORDS;
    for (let i = 0; i < ADDRESS_WORDS; i++) if (words[at + i] !== target.ip.words[i]) return false;
    return ports[index] === target.port;
  }

  #noteServer(sequence: number): void {
    this.#serverId ??= world.serverId;
    if (world.serverId === this.#serverId || sequence < this.#serverSince) return;
    this.#moves++;
    this.#context.measurement.counts.wrongServer++;
    if (sequence <= this.#newestAnswered) return;
    this.#serverId = world.serverId;
    this.#serverSince = sequence;
  }

  #match(sequence: number, nowMs: number): void {
    const { reply, measurement } = this.#context;
    const { counts } = measurement;
    const ring = this.#ring;
    const state = ring.state(sequence);
    if (state === ANSWERED) {
      if (reply === 'tick' && ring.serverTick(sequence) !== world.tick) counts.repeated++;
      else counts.duplicates++;
    } else {
      counts.matched++;
      if (state === SUPERSEDED) counts.superseded--;
      if (sequence < this.#newestAnswered) counts.reordered++;
      measurement.recordRoundTrip(nowMs - ring.intendedMs(sequence));
      ring.setState(sequence, ANSWERED);
    }
    ring.setServerTick(sequence, world.tick);
    if (reply === 'tick') this.#supersedeBefore(sequence);
  }

  /** A server that answers each tick reflects the newest update only: what came before it will not be answered. */
  #supersedeBefore(sequence: number): void {
    const ring = this.#ring;
    for (let older = Math.max(this.#newestAnswered + 1, ring.first); older < sequence; older++) {
      if (ring.state(older) !== AWAITED) continue;
      ring.setState(older, SUPERSEDED);
      this.#context.measurement.counts.superseded++;
    }
  }
}
