/**
 * The stub game server: it believes every position it is told and answers with the world state of the player's match.
 *
 *   datagram in -> decode -> update the world -> reply at once, or note where the player is
 *   each tick (reply mode `tick`)             -> reply to every live player, where the last update came from
 *
 * received = accepted + malformed, always. A malformed datagram is counted and never answered.
 */
import type { Endpoint } from '../net/address.ts';
import { ADDRESS_WORDS } from '../net/address.ts';
import type { DatagramSocket, OpenDatagramSocket } from '../net/datagram-socket.ts';
import { DatagramBatch } from '../net/datagram-socket.ts';
import type { Metronome, Ticker } from '../net/ticker.ts';
import { startTicker } from '../net/ticker.ts';
import type { Codec } from '../wire/codec.ts';
import { createPositionUpdate } from '../wire/position-update.ts';
import { createWorldState } from '../wire/world-state.ts';
import { MAX_PLAYERS, World } from './world.ts';

/** `immediate`: one world state for each update. `tick`: one for each live player, each tick. */
export const REPLY_MODES = ['immediate', 'tick'] as const;
export type ReplyMode = (typeof REPLY_MODES)[number];

/** Replies handed to the socket together. */
const REPLY_BATCH = 64;

/** Time between two sweeps for silent players, in ms: a full world is swept in 1.6 s. */
const SWEEP_INTERVAL_MS = 100;

export interface GameServerOptions {
  readonly openSocket: OpenDatagramSocket;
  /** Where to bind; port 0 asks the system for a free one. */
  readonly listen: Endpoint;
  /** 0 to 65,535, in every world state. */
  readonly serverId: number;
  readonly codec: Codec;
  readonly reply: ReplyMode;
  /** The world's rate in Hz: how fast its tick number rises and, in reply mode `tick`, how often it is sent. */
  readonly tickHz: number;
  /** Players of one match, 1 to 85. */
  readonly matchPlayers: number;
  /** Silence in ms after which a player is forgotten. */
  readonly forgetMs: number;
  /** Monotonic clock in ms. Default `performance.now`. */
  readonly now?: () => number;
  /** Default net/ticker.ts's. */
  readonly metronome?: Metronome;
}

export interface GameServerCounts {
  /** Datagrams: received = accepted + malformed. */
  readonly received: number;
  readonly accepted: number;
  readonly malformed: number;
  /** Failures of the socket to receive, of no datagram in particular. */
  readonly receiveErrors: number;
  /** World states that left, that the system refused, and that met a full send queue. */
  readonly sent: number;
  readonly sendFailed: number;
  readonly sendQueueFull: number;
  /** Live players at present. */
  readonly players: number;
  /** Reply mode `tick`: ticks called, those of them that began a period late or more, and those left out. */
  readonly ticks: number;
  readonly lateTicks: number;
  readonly skippedTicks: number;
}

export class GameServer {
  readonly #socket: DatagramSocket;
  readonly #codec: Codec;
  readonly #world: World;
  readonly #now: () => number;
  readonly #sweepTimer: NodeJS.Timeout;
  readonly #ticker: Ticker | undefined;

  // Made once, overwritten for each datagram.
  readonly #update = createPositionUpdate();
  readonly #state = createWorldState();
  readonly #replies = new DatagramBatch(REPLY_BATCH);
  readonly #replyBytes: readonly Uint8Array[];
  /** The replies at their own lengths, which seldom change: a socket copies a whole array soonest. */
  readonly #replyViews: Uint8Array[];

  // Reply mode `tick`: where the last update of each player came from and on which path, by player id.
  readonly #words = new Uint32Array(ADDRESS_WORDS * MAX_PLAYERS);
  readonly #ports = new Uint16Array(MAX_PLAYERS);
  readonly #paths = new Uint16Array(MAX_PLAYERS);

  readonly #startMs: number;
  readonly #tickPeriodMs: number;
  readonly #isTicked: boolean;
  #received = 0;
  #accepted = 0;
  #malformed = 0;
  #receiveErrors = 0;
  #sent = 0;
  #sendFailed = 0;
  #sendQueueFull = 0;
  #ticks = 0;
  #closed: Promise<void> | undefined;

  /** Binds and serves. @throws RelayError TICKRELAY_ERR_BIND when the address can't be had */
  constructor(options: GameServerOptions) {
    const { codec } = options;
    this.#codec = codec;
    this.#world = new World(options);
    this.#now = options.now ?? (() => performance.now());
    this.#state.serverId = options.serverId;
    this.#replyBytes = Array.from({ length: REPLY_BATCH }, () => new Uint8Array(codec.maxWorldBytes));
    this.#replyViews = [...this.#replyBytes];
    this.#startMs = this.#now();
    this.#tickPeriodMs = 1000 / options.tickHz;
    this.#isTicked = options.reply === 'tick';
    this.#socket = options.openSocket({
      local: options.listen,
      // On a wildcard address: a relay takes answers only from the address that it sent to.
      tellPaths: true,
      onReceive: (batch) => this.#receive(batch),
      onSent: (sent, failed) => {
        this.#sent += sent;
        this.#sendFailed += failed;
      },
      onError: () => this.#receiveErrors++,
      // One reply for every player may wait for the system at once.
      sendQueueLimit: MAX_PLAYERS,
    });
    this.#sweepTimer = setInterval(() => this.#world.sweep(this.#now()), SWEEP_INTERVAL_MS);
    if (this.#isTicked) {
      this.#ticker = startTicker({
        periodMs: this.#tickPeriodMs,
        onTick: (tick) => this.#replyToAll(tick),
        now: this.#now,
        ...(options.metronome && { metronome: options.metronome }),
      });
    }
  }

  /** The bound address. */
  get local(): Endpoint {
    return this.#socket.local;
  }

  get counts(): GameServerCounts {
    const { overruns = 0, skipped = 0 } = this.#ticker ?? {};
    return {
      received: this.#received,
      accepted: this.#accepted,
      malformed: this.#malformed,
      receiveErrors: this.#receiveErrors,
      sent: this.#sent,
      sendFailed: this.#sendFailed,
      sendQueueFull: this.#sendQueueFull,
      players: this.#world.playerCount,
      ticks: this.#ticks,
      lateTicks: overruns - skipped,
      skippedTicks: skipped,
    };
  }

  /** Stops ticking, then receiving. Idempotent. */
  close(): Promise<void> {
    this.#ticker?.stop();
    clearInterval(this.#sweepTimer);
    this.#closed ??= this.#socket.close();
    return this.#closed;
  }

  #receive(batch: DatagramBatch): void {
    const { count, payloads, lengths, words, ports, paths } = batch;
    const nowMs = this.#now();
    this.#received += count;
    this.#state.tick = Math.floor((nowMs - this.#startMs) / this.#tickPeriodMs) >>> 0;
    for (let i = 0; i < count; i++) {
      if (!this.#codec.decodeUpdate(payloads[i]!, lengths[i]!, this.#update)) {
        this.#malformed++;
        continue;
      }
      this.#accepted++;
      this.#world.update(this.#update, nowMs);
      const at = ADDRESS_WORDS * i;
      if (this.#isTicked) this.#noteRemote(this.#update.playerId, words, at, ports[i]!, paths[i]!);
      else this.#reply(this.#update.playerId, words, at, ports[i]!, paths[i]!);
    }
    this.#flush();
  }

  #replyToAll(tick: number): void {
    this.#ticks++;
    this.#state.tick = tick >>> 0;
    for (let place = 0; place < this.#world.playerCount; place++) {
      const playerId = this.#world.playerIdAt(place);
      const at = ADDRESS_WORDS * playerId;
      this.#reply(playerId, this.#words, at, this.#ports[playerId]!, this.#paths[playerId]!);
    }
    this.#flush();
  }

  #noteRemote(playerId: number, words: Uint32Array, at: number, port: number, path: number): void {
    const to = ADDRESS_WORDS * playerId;
    for (let i = 0; i < ADDRESS_WORDS; i++) this.#words[to + i] = words[at + i]!;
    this.#ports[playerId] = port;
    this.#paths[playerId] = path;
  }

  /** Adds the player's world state to the batch of replies. */
  #reply(playerId: number, words: Uint32Array, at: number, port: number, path: number): void {
    const slot = this.#replies.count;
    const bytes = this.#replyBytes[slot]!;
    this.#world.describeMatch(playerId, this.#state);
    const length = this.#codec.encodeWorld(this.#state, bytes);
    if (this.#replyViews[slot]!.length !== length) this.#replyViews[slot] = bytes.subarray(0, length);
    this.#replies.append(this.#replyViews[slot]!, length, words, at, port, path);
    if (this.#replies.count === REPLY_BATCH) this.#flush();
  }

  #flush(): void {
    if (this.#replies.count === 0) return;
    this.#sendQueueFull += this.#replies.count - this.#socket.send(this.#replies);
    this.#replies.clear();
  }
}
