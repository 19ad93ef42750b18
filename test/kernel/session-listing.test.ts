/** Sessions as the admin API lists them, read from a real map. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { KernelMaps } from '../../relay/engines/kernel/kernel-maps.ts';
import { SESSION, SESSION_KEY } from '../../relay/engines/kernel/records.ts';
import { listSessions } from '../../relay/engines/kernel/session-listing.ts';
import { whereBpf } from './where-bpf.ts';

const NOW_NS = 50e9;

whereBpf((bpf) => {
  let maps: KernelMaps;
  beforeEach(() => {
    maps = KernelMaps.create(bpf, { maxSessions: 5_000, maxPools: 4 });
  });
  afterEach(() => maps.close());

  const addSession = (client: string, fields: Partial<Record<keyof typeof SESSION.at, number>>): void => {
    const { ip, port } = Endpoint.parse(client);
    const key = new Uint8Array(SESSION_KEY.size);
    key.set(ip.bytes, SESSION_KEY.at.address);
    const keyView = new DataView(key.buffer);
    keyView.setUint16(SESSION_KEY.at.port, port, true);
    const value = new Uint8Array(SESSION.size);
    const view = new DataView(value.buffer);
    for (const [name, number] of Object.entries(fields)) {
      const field = name as keyof typeof SESSION.at;
      if (SESSION.bytes[field] === 8) view.setBigUint64(SESSION.at[field], BigInt(number), true);
      else if (SESSION.bytes[field] === 4) view.setUint32(SESSION.at[field], number, true);
      else view.setUint16(SESSION.at[field], number, true);
    }
    maps.maps.sessions.update(key, value);
  };
  const list = (query = {}) =>
    listSessions(
      { bpf, sessions: maps.maps.sessions },
      { limit: 10_000, ...query },
      {
        nowNs: NOW_NS,
        listener: () => ({ name: 'game', backendOf: () => undefined }),
      },
    );

  test('sessions are listed with their ages, traffic and pacing', async () => {
    addSession('192.0.2.1:4000', {
      lastSeenNs: 49.5e9,
      openedNs: 40e9,
      datagramsDownstream: 3,
      bytesDownstream: 42,
      datagramsUpstream: 2,
      bytesUpstream: 300,
      seenPort: 4000,
      gaps: 1,
    });
    expect(await list()).toEqual({
      sessions: [
        {
          listener: 'game',
          client: '192.0.2.1:4000',
          backend: undefined,
          upstreamPort: 4000,
          ageMs: 10_000,
          idleMs: 500,
          halfOpen: false,
          downstreamDatagrams: 3,
          downstreamBytes: 42,
          upstreamDatagrams: 2,
          upstreamBytes: 300,
          pacing: { gaps: 1, intervals: [0, 0, 0, 0, 0, 0, 0, 0] },
        },
      ],
      total: 1,
      truncated: false,
    });
  });

  test('sessions are all listed, each once, filtered by client and bounded', async () => {
    for (let i = 0; i < 3_000; i++) addSession(`10.0.${i >> 8}.${i & 255}:${1 + (i % 3)}`, { lastSeenNs: 1 });
    addSession('[2001:db8::1]:9', { lastSeenNs: 1 });
    const all = await list();
    expect(all.total).toBe(3_001);
    expect(new Set(all.sessions.map(({ client }) => client)).size).toBe(3_001);
    const bounded = await list({ limit: 5 });
    expect(bounded).toMatchObject({ total: 3_001, truncated: true });
    expect(bounded.sessions).toHaveLength(5);
    const one = await list({ clientIp: '2001:db8::1' });
    expect(one.sessions.map(({ client }) => client)).toEqual(['[2001:db8::1]:9']);
    const byIp = await list({ clientIp: '10.0.1.7' });
    expect(byIp.total).toBe(1);
  });
});
