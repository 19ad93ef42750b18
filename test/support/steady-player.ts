/**
 * A player that accounts for every update it sends: which server answered, and which were never answered. It goes on to
 * the next update as soon as the last one was answered, or after a while without; an answer that comes late is no loss.
 *
 * The updates are numbered by their x. An answer belongs to this player when it is addressed to its id and shows one of
 * its own updates that no earlier answer showed; any other is a stray.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoint } from '../../net/address.ts';
import { encodePositionUpdate, POSITION_UPDATE_BYTES } from '../../wire/position-update.ts';
import { createWorldState, decodeWorldState } from '../../wire/world-state.ts';
import { UdpPeer, type ReceivedDatagram } from './udp-peer.ts';
import { until } from './until.ts';

/** Between an answer and the next update: some fifty updates a second. */
const PAUSE_MS = 20;
/** Without an answer. */
const NEXT_AFTER_MS = 250;

export interface SteadyPlayerOptions {
  readonly id: number;
  /** Where it plays from, like 127.20.0.1:0. */
  readonly local: string;
  readonly target: Endpoint;
}

export class SteadyPlayer {
  readonly id: number;
  /** The servers that answered, in order, each run of answers once: one entry as long as it stays where it is. */
  readonly servers: number[] = [];
  /** Datagrams that are no first answer to an update of this player. */
  strays = 0;
  answered = 0;
  readonly #peer: UdpPeer;
  readonly #target: Endpoint;
  readonly #world = createWorldState();
  readonly #bytes = new Uint8Array(POSITION_UPDATE_BYTES);
  /** Updates without an answer. */
  readonly #open = new Set<number>();
  #isStopped = false;
  #step = 0;
  #onAnswer: () => void = () => undefined;
  #playing: Promise<void> | undefined;

  constructor({ id, local, target }: SteadyPlayerOptions) {
    this.id = id;
    this.#target = target;
    this.#peer = new UdpPeer(local, (datagram) => {
      this.#receive(datagram);
      return undefined;
    });
  }

  /** Its address, as the relay lists it. */
  get address(): string {
    return this.#peer.local.toString();
  }

  /** The id of the server that answered last. */
  get server(): number | undefined {
    return this.servers.at(-1);
  }

  /** Updates that were not answered, yet or ever. */
  get unanswered(): number {
    return this.#open.size;
  }

  /** Plays until `stop`. Resolves with the first answer. */
  async start(): Promise<void> {
    this.begin();
    await this.answers(1);
  }

  /** Plays until `stop`, answered or not. */
  begin(): void {
    this.#playing ??= this.#play();
  }

  /** Waits for so many further answers. */
  async answers(count: number): Promise<void> {
    const wanted = this.answered + count;
    await until(`${count} answers to player ${this.id}`, () => this.answered >= wanted);
  }

  /** Sends nothing more. Idempotent. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#playing;
  }

  async close(): Promise<void> {
    await this.stop();
    await this.#peer.close();
  }

  async #play(): Promise<void> {
    while (!this.#isStopped) {
      this.#send();
      await this.#answerOr(NEXT_AFTER_MS);
      await sleep(PAUSE_MS);
    }
  }

  #answerOr(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#onAnswer = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #send(): void {
    const step = ++this.#step;
    this.#open.add(step);
    encodePositionUpdate({ playerId: this.id, x: step, y: 0, z: 0 }, this.#bytes);
    this.#peer.send(this.#target, this.#bytes);
  }

  #receive({ payload, from }: ReceivedDatagram): void {
    const world = this.#world;
    const isOwn =
      from.equals(this.#target) &&
      decodeWorldState(payload, payload.length, world) &&
      world.players[0]!.playerId === this.id &&
      this.#open.delete(world.players[0]!.x);
    if (!isOwn) {
      this.strays++;
      return;
    }
    this.answered++;
    if (world.serverId !== this.server) this.servers.push(world.serverId);
    this.#onAnswer();
  }
}

/** Stops all of them and waits until the last answers are in: what is then unanswered is lost. */
export async function settle(players: readonly SteadyPlayer[]): Promise<void> {
  await Promise.all(players.map((player) => player.stop()));
  await until('the last answers', () => players.every(({ unanswered }) => unanswered === 0), 3_000).catch(
    () => undefined,
  );
}

/** Those who were not on one server all along, or lack an answer, or got what was not theirs: nobody, it should be. */
export function disturbed(players: readonly SteadyPlayer[]): readonly object[] {
  return players
    .filter(({ servers, unanswered, strays }) => servers.length !== 1 || unanswered > 0 || strays > 0)
    .map(({ id, servers, unanswered, strays }) => ({ id, servers, unanswered, strays }));
}
