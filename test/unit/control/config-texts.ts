/** Configurations for tests, whole and with a change, and the error that one makes. */
import { RelayError } from '../../../net/relay-error.ts';
import { parseConfig } from '../../../relay/control/config.ts';

export const EXAMPLE = `
engine: auto            # auto | dgram | mmsg | kernel
listeners:
  - { name: game,  protocol: udp, listen: "0.0.0.0:7777", pool: game-servers, algorithm: ip-hash, idleTimeout: 120s }
  - { name: login, protocol: tcp, listen: "0.0.0.0:5432", pool: postgres, algorithm: least-connections }
pools:
  game-servers:
    healthCheck: { type: heartbeat, interval: 1s, timeout: 500ms, rise: 2, fall: 3 }
    registration: { allow: ["10.0.0.0/24"], token: "\${TICKRELAY_TOKEN}" }
    backends: [ { address: "10.0.0.3:7777", weight: 1 } ]
  postgres:
    healthCheck: { type: tcp, interval: 1s }
    backends: [ "10.0.0.3:5432", "10.0.0.5:5432" ]
admin: { listen: "127.0.0.1:7900" }
`;

export const MINIMAL = `
listeners: [ { name: game, protocol: udp, listen: "0.0.0.0:7777", pool: servers } ]
pools: { servers: { backends: [ "10.0.0.3:7777" ] } }
`;

export const errorOf = (text: string, env = {}): RelayError => {
  try {
    parseConfig(text, { env, source: 'relay.yaml' });
  } catch (error) {
    if (error instanceof RelayError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
};

/** The minimal configuration with a change to its one listener, pool or root. */
export const withListener = (keys: string): string =>
  MINIMAL.replace('pool: servers', `pool: servers, ${keys}`);
export const withPool = (keys: string): string => MINIMAL.replace('backends:', `${keys}, backends:`);
export const withBackends = (list: string): string => MINIMAL.replace('"10.0.0.3:7777"', list);
