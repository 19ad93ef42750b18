/**
 * What one end-to-end test starts: processes, sockets, players, files. All of it goes in `close`, whatever became of the
 * test; processes by their own ids.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PostgresCluster, type PostgresOptions } from '../../bench/postgres-cluster.ts';
import { ProcessGroup, type ManagedProcess, type ProcessSpec } from '../../bench/process-group.ts';
import type { Endpoint } from '../../net/address.ts';
import { startGameServer, type GameServerProcess, type GameServerSettings } from './game-fleet.ts';
import { RelayProcess, type RelaySurroundings } from './relay-process.ts';
import { SteadyPlayer } from './steady-player.ts';
import { UdpPeer, type Answer } from './udp-peer.ts';

/** How long a process may take to end by itself after a test. Its end is not what is tested. */
const GRACE_MS = 100;

export class Stage {
  readonly #group = new ProcessGroup();
  readonly #open: { close(): Promise<void> | void }[] = [];
  #folder: string | undefined;
  #players = 0;

  /** A folder of this test alone. */
  get folder(): string {
    this.#folder ??= mkdtempSync(join(tmpdir(), 'tickrelay-e2e-'));
    return this.#folder;
  }

  writeFile(name: string, content: object | string): string {
    const path = join(this.folder, name);
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }

  /** Starts a relay from a configuration file, and waits until it is ready. */
  relay(config: object, flags: readonly string[] = [], file = 'relay.yaml'): Promise<RelayProcess> {
    return RelayProcess.fromConfig(this.#group, config, join(this.folder, file), flags);
  }

  /** The same with the command line of another version (other-version.ts). */
  relayOfOtherVersion(cli: string, config: object): Promise<RelayProcess> {
    return RelayProcess.ofOtherVersion(this.#group, cli, { config, path: join(this.folder, 'relay.yaml') });
  }

  /** Starts a relay from flags alone. */
  relayFromFlags(flags: readonly string[], surroundings?: RelaySurroundings): Promise<RelayProcess> {
    return RelayProcess.fromFlags(this.#group, flags, surroundings);
  }

  gameServer(settings: GameServerSettings): Promise<GameServerProcess> {
    return startGameServer(this.#group, settings);
  }

  /** Game servers with the ids 1 to `count`. */
  gameServers(count: number, settings: Omit<GameServerSettings, 'id'> = {}): Promise<GameServerProcess[]> {
    return Promise.all(Array.from({ length: count }, (_, i) => this.gameServer({ ...settings, id: i + 1 })));
  }

  start(spec: ProcessSpec): ManagedProcess {
    return this.#group.start(spec);
  }

  /** Starts a PostgreSQL server that ends in order. */
  async postgres(
    programs: string,
    options: Omit<PostgresOptions, 'group' | 'programs' | 'folder'> = {},
  ): Promise<PostgresCluster> {
    const own = { group: this.#group, programs, folder: this.folder };
    return this.closing(await PostgresCluster.start({ ...own, ...options }));
  }

  peer(local: string, answer?: Answer): UdpPeer {
    return this.closing(new UdpPeer(local, answer));
  }

  player(local: string, target: Endpoint): SteadyPlayer {
    return this.closing(new SteadyPlayer({ id: this.#players++, local, target }));
  }

  /** Players that play from so many addresses in a row, each with a first answer. */
  async players(count: number, target: Endpoint, network = '127.20.0'): Promise<SteadyPlayer[]> {
    const players = Array.from({ length: count }, (_, i) => this.player(`${network}.${i + 1}:0`, target));
    await Promise.all(players.map((player) => player.start()));
    return players;
  }

  /** Closes it after the test. */
  closing<T extends { close(): Promise<void> | void }>(thing: T): T {
    this.#open.push(thing);
    return thing;
  }

  async close(): Promise<void> {
    try {
      for (const thing of this.#open.splice(0).reverse()) await thing.close();
    } finally {
      await this.#group.close(GRACE_MS);
      if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
    }
  }
}
