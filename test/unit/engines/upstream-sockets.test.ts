/** Which upstream socket a session gets, when it rests, and when it is closed. */
import { describe, expect, test } from 'vitest';
import type { DatagramSocket } from '../../../net/datagram-socket.ts';
import { NO_OWNER } from '../../../relay/engines/userspace/upstream-owners.ts';
import { collectGarbage } from '../../support/garbage.ts';
import { QUARANTINE_MS, upstreamRig } from './upstream-rig.ts';

describe('upstream sockets', () => {
  test('sessions on one backend have a socket each, sessions on different backends share', () => {
    const { sockets } = upstreamRig();
    expect([sockets.acquire(0, 1, 0), sockets.acquire(0, 2, 0), sockets.acquire(1, 3, 0)]).toEqual([0, 1, 1]);
    expect(sockets.acquire(1, 4, 0)).toBe(0);
    expect(sockets.size).toBe(2);
    expect([0, 1, 2].map((slot) => sockets.owners.get(1, slot))).toEqual([2, 3, NO_OWNER]);
  });

  test('a socket rests towards the backend that it served, not towards the others', () => {
    const { sockets } = upstreamRig();
    const first = sockets.acquire(0, 1, 0);
    sockets.release(first, 0, 1, 100);
    expect(sockets.acquire(1, 2, 100)).toBe(first);
    expect(sockets.acquire(0, 3, 100 + QUARANTINE_MS - 1)).not.toBe(first);
    expect(sockets.acquire(0, 4, 100 + QUARANTINE_MS)).toBe(first);
  });

  test('no more sockets are opened than allowed, and a rested one serves again', () => {
    const { sockets } = upstreamRig(2);
    expect([1, 2, 3].map((session) => sockets.acquire(0, session, 0))).toEqual([0, 1, -1]);
    expect(sockets.acquire(1, 4, 0)).toBe(1);
    sockets.release(0, 0, 1, 0);
    expect(sockets.acquire(0, 5, QUARANTINE_MS - 1)).toBe(-1);
    expect(sockets.acquire(0, 5, QUARANTINE_MS)).toBe(0);
  });

  test('a refused socket is asked for again after 100 ms, and each refusal is told', () => {
    const { sockets, refuse, failures } = upstreamRig();
    refuse.error = new Error('EMFILE');
    expect(sockets.acquire(0, 1, 0)).toBe(-1);
    expect(sockets.acquire(0, 1, 99)).toBe(-1);
    expect(refuse.attempts).toBe(1);
    expect(sockets.acquire(0, 1, 100)).toBe(-1);
    expect(failures).toEqual([refuse.error, refuse.error]);
    refuse.error = undefined;
    expect(sockets.acquire(0, 1, 199)).toBe(-1);
    expect(sockets.acquire(0, 1, 200)).toBe(0);
    expect([refuse.attempts, sockets.size]).toEqual([3, 1]);
  });

  test('a refusal leaves sockets that are open in use', () => {
    const { sockets, refuse } = upstreamRig();
    sockets.acquire(0, 1, 0);
    refuse.error = new Error('EMFILE');
    expect(sockets.acquire(1, 2, 0)).toBe(0);
  });

  test('a socket that nobody needs is closed after its rest, and its number is used again', () => {
    const { sockets, opened } = upstreamRig();
    sockets.acquire(0, 1, 0);
    sockets.acquire(0, 2, 0);
    sockets.release(0, 0, 1, 500);
    sockets.sweep(500 + QUARANTINE_MS - 1);
    expect(opened.map(({ closed }) => closed)).toEqual([false, false]);
    sockets.sweep(500 + QUARANTINE_MS);
    expect(opened.map(({ closed }) => closed)).toEqual([true, false]);
    expect(sockets.size).toBe(1);
    expect(sockets.acquire(0, 3, 2_000)).toBe(0);
    expect(opened).toHaveLength(3);
  });

  test('closed sockets are forgotten by the backends that never took them', async () => {
    const { sockets } = upstreamRig(4);
    const freed: WeakRef<DatagramSocket>[] = [];
    for (let round = 0; round < 50; round++) {
      const number = sockets.acquire(0, 1, round * 10_000);
      freed.push(new WeakRef(sockets.sockets[number]!));
      sockets.release(number, 0, 1, round * 10_000);
      sockets.sweep(round * 10_000 + QUARANTINE_MS);
    }
    expect(sockets.size).toBe(0);
    await expect
      .poll(() => (collectGarbage(), freed.filter((ref) => ref.deref() !== undefined).length))
      .toBe(0);
  });

  test('more backends than eight find room in sockets that are open already', () => {
    const ids = Array.from({ length: 20 }, (_, i) => String.fromCharCode(97 + i));
    const { sockets, add, publish } = upstreamRig(100, ids.slice(0, 2));
    expect(sockets.acquire(1, 77, 0)).toBe(0);
    for (const id of ids.slice(2)) add(id);
    publish(0);
    expect(sockets.owners.get(0, 1)).toBe(77);
    expect(sockets.acquire(19, 78, QUARANTINE_MS)).toBe(0);
    sockets.release(0, 1, 77, QUARANTINE_MS);
    expect(sockets.owners.get(0, 19)).toBe(78);
  });

  test('a backend that moved to another slot does not meet sockets that may still get its late replies', () => {
    const { sockets, pool, add, publish, slot, port } = upstreamRig(100, ['x', 'a']);
    pool.remove('x');
    publish(0);
    add('a2', '10.0.9.9:1');
    publish(0);
    // a has slot 1, a2 took slot 0. Now a leaves, comes back in slot 0, leaves and comes back in slot 1.
    const start = QUARANTINE_MS * 5;
    pool.remove('a');
    pool.remove('a2');
    publish(start);
    add('a');
    publish(start);
    expect(slot('a')).toBe(0);
    const served = sockets.acquire(0, 2, start + QUARANTINE_MS);
    const servedPort = port(served);
    sockets.release(served, 0, 2, start + QUARANTINE_MS);
    pool.remove('a');
    publish(start + QUARANTINE_MS);
    add('b');
    add('a');
    publish(start + QUARANTINE_MS);
    expect(slot('a')).toBe(1);
    expect(port(sockets.acquire(1, 3, start + QUARANTINE_MS))).not.toBe(servedPort);
  });

  test('IPv4 and IPv6 backends have sockets of their own kind', () => {
    const { sockets, add, publish, slot, opened } = upstreamRig();
    add('six', '[2001:db8::1]:7777');
    publish(0);
    sockets.acquire(0, 1, 0);
    expect(sockets.acquire(slot('six'), 2, 0)).toBe(1);
    expect(opened.map(({ local }) => local)).toEqual(['0.0.0.0:0', '[::]:0']);
    expect([0, 1].map((number) => sockets.sockets[number]!.local.ip.isV4)).toEqual([true, false]);
  });

  test('each socket tags its datagrams with its number, also one that was used before', () => {
    const { sockets, opened } = upstreamRig();
    expect([1, 2].map((session) => sockets.acquire(0, session, 0))).toEqual([0, 1]);
    sockets.release(0, 0, 1, 0);
    expect(sockets.closeUnowned(0)).toBe(true);
    expect(sockets.acquire(0, 3, 0)).toBe(0);
    expect(opened.map(({ tag, closed }) => [tag, closed])).toEqual([
      [0, true],
      [1, false],
      [0, false],
    ]);
  });

  test('owners outlive the growth to hundreds of sockets and more backends', () => {
    const { sockets, add, publish, slot } = upstreamRig(1_000);
    for (let session = 0; session < 300; session++) sockets.acquire(0, session, 0);
    for (const id of 'cdefghijkl') add(id);
    publish(0);
    sockets.acquire(slot('l'), 1_000, QUARANTINE_MS);
    for (let session = 0; session < 300; session++) expect(sockets.owners.get(session, 0)).toBe(session);
    expect(
      Array.from({ length: 300 }, (_, n) => sockets.owners.get(n, slot('l'))).filter((s) => s !== NO_OWNER),
    ).toEqual([1_000]);
  });

  test('closing closes all of them', async () => {
    const { sockets, opened } = upstreamRig();
    for (let session = 0; session < 5; session++) sockets.acquire(0, session, 0);
    await sockets.close();
    expect(opened.every(({ closed }) => closed)).toBe(true);
    expect(sockets.size).toBe(0);
  });
});
