/**
 * A relay of another version in the place of a dead one: its programs take the links over in one step, and where it lays out
 * its maps in the same way it goes on with the sessions.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { BPF_LINK_INFO } from '../../net/linux/abi.ts';
import { attachedTo } from '../../relay/engines/kernel/attach.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { PinDirectory } from '../../relay/engines/kernel/bpffs.ts';
import { LAYOUT_VERSION } from '../../relay/engines/kernel/records.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { type Change, makeOtherVersion, OTHER_LAYOUT, programTag } from '../support/other-version.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { Stage } from '../support/stage.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { until } from '../support/until.ts';

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

const PLAYERS = 24;
const LINKS = ['lo-ingress', 'lo-egress'] as const;

/** Other instructions in every program that opens sessions, and in the replies', and in the search for relay ports; the records are the same. */
const OTHER_PROGRAMS: readonly Change[] = [
  {
    file: 'relay/engines/kernel/program-ring.js',
    from: 'const PORT_ATTEMPTS = 128;',
    to: 'const PORT_ATTEMPTS = 127;',
  },
  {
    file: 'relay/engines/kernel/program-half-open.js',
    from: 'const EVICTIONS = 32;',
    to: 'const EVICTIONS = 63;',
  },
  {
    file: 'relay/engines/kernel/program-reply.js',
    from: "a.jumpIf(r2, '>', 1, 'may reply');",
    to: "a.jumpIf(r2, '>=', 2, 'may reply');",
  },
];

/** A pin has two fields more, so its record is longer. */
const OTHER_RECORDS: readonly Change[] = [
  {
    file: 'relay/engines/kernel/records.js',
    from: 'confirmed: U32,',
    to: 'confirmed: U32, more: U32, again: U32,',
  },
];

/** A map more, as a later version may bring. */
const ANOTHER_MAP: readonly Change[] = [
  {
    file: 'relay/engines/kernel/maps.js',
    from: "gauges: array('gauges', GAUGES.size, 1),",
    to: "gauges: array('gauges', GAUGES.size, 1), more: array('more', 8, 1),",
  },
];

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const fleet = new Stage();
  let pool: { readonly backends: readonly string[] };
  let stage: KernelStage;
  let players: readonly SteadyPlayer[];
  let first: RelayProcess;
  let beganMs: number;

  let config: (listen: string, admin: string) => object;

  beforeAll(async () => {
    const servers = await fleet.gameServers(3);
    pool = { backends: servers.map(({ endpoint }) => endpoint.toString()) };
  });
  afterAll(() => fleet.close());

  beforeEach(() => {
    stage = new KernelStage();
  });
  afterEach(() => stage.close());

  /** The first relay, and players on it. */
  const begin = async (sourceAddress: 'client' | 'relay'): Promise<void> => {
    config = (listen, admin) =>
      gameConfig({
        listener: { listen },
        pool,
        rest: {
          name: 'upgraded',
          engine: 'kernel',
          kernel: { bpffs: stage.bpffs.path, sourceAddress },
          admin: { listen: admin },
        },
      });
    first = await stage.relay(config('127.0.0.1:0', '127.0.0.1:0'));
    players = await stage.players(PLAYERS, first.listener());
    beganMs = performance.now();
    await playOn();
  };

  const playOn = (answers = 20): Promise<unknown> =>
    Promise.all(players.map((player) => player.answers(answers)));

  /** The port by which its server knows each player. */
  const portsByClient = async (relay: RelayProcess): Promise<ReadonlyMap<string, number>> =>
    new Map((await relay.sessions()).map(({ client, upstreamPort }) => [client, upstreamPort]));

  /** The other version in the place of the first, which dies under load. */
  const upgrade = async (changes: readonly Change[]): Promise<RelayProcess> => {
    const cli = makeOtherVersion(`${stage.folder}/other`, changes);
    first.process.signal('SIGKILL');
    await first.process.ended(20_000);
    await playOn();
    const admin = first.admin.replace('http://', '');
    const second = await stage.relayOfOtherVersion(cli, config(first.listener().toString(), admin));
    await playOn();
    return second;
  };

  /** Identity and tag, a hash of its instructions, of the program in each link; the links' own ids. */
  const attached = (): { links: number[]; programs: number[]; tags: string[] } => {
    const { bpf, bpffs } = stage;
    const pins = new PinDirectory(bpffs.path, 'upgraded');
    const found = LINKS.map((name) => {
      const link = bpf.open(pins.linkPath(name))!;
      const info = bpf.info(link);
      const program = info.getUint32(BPF_LINK_INFO.program, true);
      bpf.closeFd(link);
      return { link: info.getUint32(BPF_LINK_INFO.id, true), program, tag: programTag(bpf, program) };
    });
    return {
      links: found.map(({ link }) => link),
      programs: found.map(({ program }) => program),
      tags: found.map(({ tag }) => tag),
    };
  };

  const report = async (what: string): Promise<void> => {
    await settle(players);
    const seconds = (performance.now() - beganMs) / 1_000;
    const sum = (of: (player: SteadyPlayer) => number): number =>
      players.reduce((total, player) => total + of(player), 0);
    const lost = sum(({ unanswered }) => unanswered);
    const sent = sum(({ answered }) => answered) + lost;
    const rate = Math.round(sent / seconds);
    process.stdout.write(
      `${what}: ${lost} of ${sent} datagrams lost by ${players.length} players, who sent ${rate} a second\n`,
    );
  };

  test.each(['client', 'relay'] as const)(
    'with the address of the %s, other programs replace those that are attached, and not a datagram is lost and not a session',
    async (source) => {
      await begin(source);
      const before = attached();
      const servers = await first.serversByClient();
      const ports = await portsByClient(first);
      const counted = (await first.metric('datagrams_forwarded_total', { direction: 'downstream' }))!;
      const second = await upgrade(OTHER_PROGRAMS);
      const now = attached();
      expect(now.links).toEqual(before.links);
      for (const i of LINKS.keys()) {
        expect(now.programs[i]).not.toBe(before.programs[i]);
        expect(now.tags[i]).not.toBe(before.tags[i]);
      }
      expect(second.process.stderr).toContain(`adopted ${PLAYERS} sessions`);
      expect(await second.serversByClient()).toEqual(servers);
      expect(await portsByClient(second)).toEqual(ports);
      expect(await second.metric('sessions_opened_total')).toBe(PLAYERS);
      expect(await second.metric('sessions_repinned_total')).toBe(0);
      expect(await second.metric('datagrams_forwarded_total', { direction: 'downstream' })).toBeGreaterThan(
        counted,
      );
      await report(`kill -9 and a changed version of the programs, backends see the ${source}`);
      expect(disturbed(players)).toEqual([]);
    },
  );

  test('a map that the other version brings with it is made, and the sessions go on', async () => {
    await begin('client');
    const second = await upgrade(ANOTHER_MAP);
    expect(second.process.stderr).toContain(`adopted ${PLAYERS} sessions`);
    expect(await second.metric('sessions_opened_total')).toBe(PLAYERS);
    await report('kill -9 and a version with one map more');
    expect(disturbed(players)).toEqual([]);
  });

  test.each([
    ['longer records', 'client', OTHER_RECORDS, 'the map pins has another size'],
    ['another layout', 'client', OTHER_LAYOUT, `its maps have layout ${LAYOUT_VERSION}, `],
    ['longer records', 'relay', OTHER_RECORDS, 'the map pins has another size'],
  ] as const)(
    '%s, with the address of the %s, can’t be adopted, which the log says, and players begin anew',
    async (...of) => {
      const { bpf, bpffs } = stage;
      const [what, source, changes, why] = of;
      await begin(source);
      const pins = new PinDirectory(bpffs.path, 'upgraded');
      const old = LINKS.map((name) => bpf.open(pins.linkPath(name))!);
      const before = attached();
      const second = await upgrade(changes);
      expect(second.process.stderr).toContain('could not be adopted');
      expect(second.process.stderr).toContain(why);
      const now = attached();
      for (const i of LINKS.keys()) expect(now.links[i]).not.toBe(before.links[i]);
      expect(await second.metric('sessions_opened_total')).toBe(PLAYERS);
      // The old programs serve until the new ones do, and what has begun then; later they go.
      await until(
        'the end of the old programs',
        () => old.every((link) => attachedTo(bpf, link) === 0),
        20_000,
      );
      for (const link of old) bpf.closeFd(link);
      await playOn();
      await report(`kill -9 and a version with ${what}, backends see the ${source}`);
      // ip-hash finds every player's server again. A reply to another relay port than the player has by then is lost.
      const mayLose = source === 'relay' ? 1 : 0;
      for (const { servers, strays, unanswered } of players) {
        expect([servers.length, strays]).toEqual([1, 0]);
        expect(unanswered).toBeLessThanOrEqual(mayLose);
      }
    },
    60_000,
  );
}
