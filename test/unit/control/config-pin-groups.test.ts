/** Listeners that share a pin group, as a configuration describes them. */
import { describe, expect, test } from 'vitest';
import { parseConfig } from '../../../relay/control/config.ts';
import { formatConfig } from '../../../relay/control/config-format.ts';
import { pinGroupsOf } from '../../../relay/control/pin-groups.ts';
import { errorOf, MINIMAL } from './config-texts.ts';

describe('pin groups', () => {
  interface Group {
    readonly game?: string;
    readonly login?: string;
    readonly games?: string;
    readonly logins?: string;
  }
  const grouped = ({ game = 'pinGroup: players', login = 'pinGroup: players', ...pools }: Group): string => `
listeners:
  - { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: games, ${game} }
  - { name: login, protocol: tcp, listen: "0.0.0.0:5432", pool: logins, ${login} }
pools:
  games: { healthCheck: { type: tcp }, backends: [ ${pools.games ?? '{ id: eu-1, address: "10.0.0.3:7777" }'} ] }
  logins: { backends: [ ${pools.logins ?? '{ id: eu-1, address: "10.0.0.3:5432" }'} ] }`;

  test('are taken from the listeners that name them', () => {
    const { config, warnings } = parseConfig(grouped({ game: 'pinGroup: players, pinTimeout: 5m' }));
    expect(warnings).toEqual([]);
    const spec = { name: 'players', pools: ['games', 'logins'], pinTimeoutMs: 300_000 };
    expect(pinGroupsOf(config.listeners)).toEqual([spec]);
    expect(parseConfig(formatConfig(config)).config).toEqual(config);
    expect(pinGroupsOf(parseConfig(MINIMAL).config.listeners)).toEqual([]);
  });

  test('of TCP listeners alone have the default timeout, or the one that is given', () => {
    const tcpOnly = (more: string): number | undefined => {
      const text = grouped({ game: more, login: more }).replace('udp', 'tcp');
      return pinGroupsOf(parseConfig(text).config.listeners)[0]?.pinTimeoutMs;
    };
    expect(tcpOnly('pinGroup: players')).toBe(600_000);
    expect(tcpOnly('pinGroup: players, pinTimeout: 1h')).toBe(3_600_000);
  });

  test.each([
    [
      'a timeout of TCP without a group',
      { game: '', login: 'pinTimeout: 5m' },
      'line 4: listeners[1].pinTimeout: says nothing without pinGroup',
    ],
    [
      'two timeouts',
      { login: 'pinGroup: players, pinTimeout: 5m' },
      'line 4: listeners[1].pinTimeout: 300000ms should be 600000ms, as listener "game" has it',
    ],
    [
      'no id in common',
      { logins: '"10.0.0.3:5432"' },
      'line 4: listeners[1].pinGroup: no backend of pool "logins" has the id of one of pool "games"',
    ],
    ['a bad name', { login: 'pinGroup: "a b"' }, 'line 4: listeners[1].pinGroup: "a b" should be a name'],
  ])('are refused with the reason: %s', (_name, group, message) => {
    expect(errorOf(grouped(group)).message).toContain(message);
  });

  test.each([
    ['a group of one', { login: '' }, 'listeners[0].pinGroup: no other listener is of the group "players"'],
    [
      'a server that one pool lacks',
      { games: '{ id: eu-1, address: "10.0.0.3:7777" }, { id: eu-2, address: "10.0.0.4:7777" }' },
      'listeners[0].pinGroup: pool "logins" has no backend with the id eu-2 of pool "games"',
    ],
  ])('are warned of: %s', (_name, group, warning) => {
    expect(parseConfig(grouped(group)).warnings.join('\n')).toContain(warning);
  });

  test('of pools that servers register with are taken as they are', () => {
    const text = grouped({ logins: '"10.0.0.3:5432"' }).replace(
      'games: { healthCheck: { type: tcp }',
      'games: { healthCheck: { type: heartbeat }, registration: { allow: ["10.0.0.0/8"] }',
    );
    expect(() => parseConfig(text)).not.toThrow();
  });
});
