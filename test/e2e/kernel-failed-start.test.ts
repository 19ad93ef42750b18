/**
 * A relay whose start fails, or is given up, in the place of a dead one whose players still play: it leaves all as it was, for the
 * players and for the next one. What it made itself goes with it.
 */
import { readdirSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ManagedProcess, tickrelay } from '../../bench/process-group.ts';
import { BPF_LINK_INFO } from '../../net/linux/abi.ts';
import { MAX_KERNEL_POOLS } from '../../relay/core/limits.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { PinDirectory } from '../../relay/engines/kernel/bpffs.ts';
import { type MapName, mapSpecs } from '../../relay/engines/kernel/maps.ts';
import { MappedArray } from '../../relay/engines/kernel/mapped-array.ts';
import { gameConfig } from '../support/game-fleet.ts';
import { KernelStage } from '../support/kernel-stage.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import type { RelayProcess } from '../support/relay-process.ts';
import { exchangeMore, SteadyConnection } from '../support/steady-connection.ts';
import { disturbed, settle, type SteadyPlayer } from '../support/steady-player.ts';
import { startTcpBackend } from '../support/tcp-backend.ts';
import { until } from '../support/until.ts';

const unavailable = whyUnavailable() ?? enterOwnNetwork([]);

const PLAYERS = 12;
const CONNECTIONS = 6;

/** What says how the programs treat a packet. */
const DECISIONS: readonly MapName[] = [
  ...(['settings', 'ports', 'rules', 'pools'] as const),
  ...(['tcp_ports', 'tcp_rules', 'tcp_names'] as const),
];

interface Settings {
  readonly listen?: string;
  readonly tcp?: string;
  readonly admin?: string;
  readonly kernel?: object;
  readonly rest?: object;
  readonly rules?: object;
  readonly more?: readonly object[];
  readonly backends?: readonly string[];
}

/** A start that can't succeed: what differs from the configuration of the relay that died, and what the error says. */
interface Failure {
  readonly what: string;
  /** Whose address backends see where it is tried; absent: both. */
  readonly only?: 'client';
  readonly settings: (taken: string) => Settings;
  readonly why: RegExp;
}

const ADDRESS_TAKEN = /TICKRELAY_ERR_BIND: .* another process has it/;

const FAILURES: readonly Failure[] = [
  {
    what: 'an interface is not there',
    only: 'client',
    settings: () => ({ kernel: { interfaces: ['lo', 'nosuch0'] } }),
    why: /no interface "nosuch0"/,
  },
  {
    what: 'the address of a listener that is new is taken',
    only: 'client',
    settings: (taken) => ({
      more: [{ name: 'more', protocol: 'tcp', listen: taken, pool: 'logins', engine: 'kernel' }],
    }),
    why: /TICKRELAY_ERR_BIND/,
  },
  {
    what: 'rules, backends, hash and listeners are others, and its admin address is taken',
    settings: (taken) => ({
      admin: taken,
      rest: { hashSeed: 7 },
      rules: { idleTimeout: '1s', algorithm: 'round-robin', limits: { sessionRate: 1 } },
      backends: ['127.0.0.1:9'],
      more: [
        { name: 'more', protocol: 'udp', listen: '0.0.0.0:0', pool: 'others' },
        { name: 'login-too', protocol: 'tcp', listen: '127.0.0.1:0', pool: 'logins', engine: 'kernel' },
      ],
    }),
    why: ADDRESS_TAKEN,
  },
  {
    what: 'it keeps attached, and its admin address is taken',
    only: 'client',
    settings: (taken) => ({ admin: taken, kernel: { keepAttached: true } }),
    why: ADDRESS_TAKEN,
  },
  {
    what: 'its maps do not fit, and its admin address is taken',
    settings: (taken) => ({ admin: taken, rest: { limits: { maxSessions: 5_000 } } }),
    why: ADDRESS_TAKEN,
  },
];

if (unavailable !== undefined) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  let stage: KernelStage;
  let pins: PinDirectory;
  let taken: string;

  beforeEach(async () => {
    stage = new KernelStage();
    pins = new PinDirectory(stage.bpffs.path, 'survivor');
    const taker: Server = createServer().listen(0, '127.0.0.1');
    stage.closing({ close: () => void taker.close() });
    await until('the taken address', () => taker.listening);
    taken = `127.0.0.1:${(taker.address() as { port: number }).port}`;
  });
  afterEach(() => stage.close());

  const start = (config: object): ManagedProcess => {
    const file = stage.writeFile('failing.yaml', config);
    return stage.start(tickrelay('failing relay', ['relay', '--json', '--config', file]));
  };
  /** Ended by SIGTERM while its programs are verified. */
  const giveUp = async (config: object): Promise<ManagedProcess> => {
    const relay = start(config);
    await until('its first line, a warning of the configuration', () => relay.stderr !== '');
    relay.signal('SIGTERM');
    expect(await relay.ended(20_000)).toMatchObject({ code: 0 });
    expect(relay.stderr).toContain('ended before it was ready');
    expect(relay.stdout).toBe('');
    return relay;
  };

  describe.each(['client', 'relay'] as const)('with the address of the %s', (sourceAddress) => {
    let first: RelayProcess;
    let players: readonly SteadyPlayer[];
    let connections: readonly SteadyConnection[];
    let config: (settings?: Settings) => object;

    /** A relay with players and TCP connections, which dies. */
    const begin = async (): Promise<void> => {
      const servers = await stage.gameServers(3);
      const logins = [await startTcpBackend(stage, 'a'), await startTcpBackend(stage, 'b')];
      const own = servers.map(({ endpoint }) => endpoint.toString());
      config = (settings = {}) => {
        const { listen = '127.0.0.1:0', tcp = '127.0.0.1:0', admin = '127.0.0.1:0' } = settings;
        const { rules = {}, more = [], backends = own } = settings;
        const game = { name: 'game', protocol: 'udp', listen, pool: 'game-servers', ...rules };
        const login = { name: 'login', protocol: 'tcp', listen: tcp, pool: 'logins', engine: 'kernel' };
        return {
          name: 'survivor',
          engine: 'kernel',
          kernel: { bpffs: stage.bpffs.path, sourceAddress, ...settings.kernel },
          listeners: [game, login, ...more],
          pools: {
            'game-servers': { backends },
            others: { backends: own },
            logins: { healthCheck: { type: 'none' }, backends: logins.map(({ address }) => address) },
          },
          admin: { listen: admin },
          ...settings.rest,
        };
      };
      first = await stage.relay(config());
      players = await stage.players(PLAYERS, first.listener('game'));
      connections = await Promise.all(
        Array.from({ length: CONNECTIONS }, async () =>
          stage.closing(await SteadyConnection.open(first.listener('login'), { pauseMs: 20 })),
        ),
      );
      await playOn();
      first.process.signal('SIGKILL');
      await first.process.ended(20_000);
    };
    /** On the dead relay's addresses. */
    const again = (settings: Settings = {}): object => {
      const [listen, tcp] = ['game', 'login'].map((name) => first.listener(name).toString());
      return config({ listen: listen!, tcp: tcp!, admin: first.admin.replace('http://', ''), ...settings });
    };
    const playOn = async (): Promise<void> => {
      await Promise.all([exchangeMore(connections), ...players.map((player) => player.answers(20))]);
    };

    /** What is attached, what is pinned, and what the programs decide by. */
    const state = (): object => {
      const { bpf } = stage;
      const links = pins.links().map((name) => {
        const link = bpf.open(pins.linkPath(name))!;
        const info = bpf.info(link);
        bpf.closeFd(link);
        const [id, program] = [BPF_LINK_INFO.id, BPF_LINK_INFO.program];
        return [name, info.getUint32(id, true), info.getUint32(program, true)];
      });
      const specs = mapSpecs({ maxSessions: 1, maxPools: MAX_KERNEL_POOLS });
      const decisions = DECISIONS.map((name) => {
        const fd = bpf.open(pins.mapPath(name))!;
        const array = new MappedArray(bpf.libc, specs[name], fd);
        const bytes = Buffer.from(array.bytes).toString('base64');
        array.unmap();
        bpf.closeFd(fd);
        return [name, bytes];
      });
      return { links, pinned: readdirSync(`${pins.path}/maps`), all: readdirSync(pins.path), decisions };
    };

    const report = (what: string): void => {
      const lost = players.reduce((sum, { unanswered }) => sum + unanswered, 0);
      const answered = players.reduce((sum, player) => sum + player.answered, 0);
      const cut = connections.filter(({ failure }) => failure !== undefined).length;
      process.stdout.write(
        `${what}, backends see the ${sourceAddress}: ${lost} of ${answered + lost} datagrams lost by ${PLAYERS} players, ` +
          `${cut} of ${CONNECTIONS} TCP connections\n`,
      );
    };

    test('starts that fail, whatever the reason, cost no player a datagram, and the next one that succeeds adopts everybody', async () => {
      await begin();
      const before = state();
      const failures = FAILURES.filter(({ only = sourceAddress }) => only === sourceAddress);
      for (const { what, settings, why } of failures) {
        const failing = start(again(settings(taken)));
        expect(await failing.ended(20_000)).toMatchObject({ code: 1 });
        expect(failing.stderr, what).toMatch(why);
        expect(state(), what).toEqual(before);
        await playOn();
      }
      await giveUp(again());
      expect(state()).toEqual(before);
      await playOn();

      const last = await stage.relay(again());
      expect(last.process.stderr).toContain(`adopted ${PLAYERS} sessions and ${CONNECTIONS} TCP connections`);
      await playOn();
      expect(await last.metric('sessions_opened_total')).toBe(PLAYERS);
      expect(await last.metric('sessions_repinned_total')).toBe(0);
      expect(await last.connections()).toHaveLength(CONNECTIONS);
      expect(connections.map(({ failure }) => failure)).toEqual(connections.map(() => undefined));
      await settle(players);
      report(`kill -9 and ${failures.length + 1} starts that fail`);
      expect(disturbed(players)).toEqual([]);
    }, 180_000);
  });

  describe('without anything to take over', () => {
    const fresh = (settings: object = {}, admin = '127.0.0.1:0'): object =>
      gameConfig({
        pool: { backends: ['127.0.0.1:9'] },
        rest: {
          name: 'survivor',
          engine: 'kernel',
          kernel: { bpffs: stage.bpffs.path, sourceAddress: 'client', ...settings },
          admin: { listen: admin },
        },
      });

    test.each([{}, { keepAttached: true }])(
      'a start that fails leaves nothing, with %j',
      async (settings) => {
        const failing = start(fresh(settings, taken));
        expect(await failing.ended(20_000)).toMatchObject({ code: 1 });
        expect(failing.stderr).toMatch(ADDRESS_TAKEN);
        expect(PinDirectory.names(stage.bpffs.path)).toEqual([]);
      },
    );

    test('a start that is given up leaves nothing', async () => {
      await giveUp(fresh({ keepAttached: true }));
      expect(PinDirectory.names(stage.bpffs.path)).toEqual([]);
    });
  });
}
