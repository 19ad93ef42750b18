/** Links and pins against the running kernel: on `lo` of a namespace that the test makes, and in a BPF file system of its own. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Endpoint } from '../../net/address.ts';
import { BPF_MAP_TYPE_ARRAY } from '../../net/linux/abi.ts';
import { loadLibc } from '../../net/linux/libc.ts';
import {
  attach,
  attachedTo,
  detach,
  interfaceIndex,
  interfacesOf,
  isAttachedTo,
  replaceProgram,
} from '../../relay/engines/kernel/attach.ts';
import { whyUnavailable } from '../../relay/engines/kernel/availability.ts';
import { BpfMap, isMapLike } from '../../relay/engines/kernel/bpf-map.ts';
import { isBpffs, PinDirectory, requireBpffs } from '../../relay/engines/kernel/bpffs.ts';
import { Bpf } from '../../relay/engines/kernel/loader.ts';
import { enterOwnNetwork } from '../support/own-network.ts';
import { UdpPeer } from '../support/udp-peer.ts';

const unavailable = whyUnavailable();
const loaded = loadLibc();

/** r0 = -1 (TCX_NEXT); exit */
const PASS = Uint8Array.from([0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0]);

describe('the interfaces of a listener', () => {
  test('are those that are named, whatever it listens on', () => {
    expect(interfacesOf(Endpoint.parse('203.0.113.1:7'), ['eth7', 'lo'])).toEqual(['eth7', 'lo']);
  });

  test('are loopback for a loopback address, listed or not', () => {
    expect(interfacesOf(Endpoint.parse('127.0.0.1:7'), [])).toEqual(['lo']);
    expect(interfacesOf(Endpoint.parse('127.9.8.7:7'), [])).toEqual(['lo']);
    expect(interfacesOf(Endpoint.parse('[::1]:7'), [])).toEqual(['lo']);
  });

  test('are all of them, loopback too, for a wildcard', () => {
    expect(interfacesOf(Endpoint.parse('0.0.0.0:7'), [])).toContain('lo');
  });

  test('can’t be found for an address that no interface has', () => {
    expect(() => interfacesOf(Endpoint.parse('203.0.113.1:7'), [])).toThrow(
      expect.objectContaining({
        code: 'TICKRELAY_ERR_BIND',
        message: expect.stringContaining('203.0.113.1:7') as string,
      }),
    );
  });
});

if (unavailable !== undefined || 'unavailable' in loaded) {
  test.skip(`skipped: ${unavailable}`, () => undefined);
} else {
  const bpf = new Bpf(loaded.libc);
  const { libc } = loaded;
  const directory = mkdtempSync(join(tmpdir(), 'bpffs-'));

  beforeAll(() => requireBpffs(libc, directory));
  afterAll(() => {
    execFileSync('umount', [directory]);
    rmdirSync(directory);
    bpf.close();
  });

  test('an interface that is not there is an error that names it', () => {
    expect(() => interfaceIndex(libc, 'nosuch0')).toThrow(/no interface "nosuch0"/);
  });

  test('a BPF file system is mounted where there is none, once', () => {
    expect(isBpffs(directory)).toBe(true);
    requireBpffs(libc, directory);
    expect(() => requireBpffs(libc, join(directory, 'nosuch'))).toThrow(
      /no such directory; as root: mount -t bpf/,
    );
  });

  test('a link is attached, takes another program and is detached, and traffic goes on', async () => {
    const program = bpf.loadProgram({ name: 'pass', instructions: PASS });
    const link = attach(bpf, program, { interface: 'lo', hook: 'ingress' });
    expect(attachedTo(bpf, link)).toBe(interfaceIndex(libc, 'lo'));
    const other = bpf.loadProgram({ name: 'pass_too', instructions: PASS });
    replaceProgram(bpf, link, other);
    const server = new UdpPeer('127.0.0.1:0', ({ payload }) => payload);
    const client = new UdpPeer('127.0.0.1:0');
    expect((await client.ask(server.local, 'x')).payload.toString()).toBe('x');
    detach(bpf, link);
    expect(attachedTo(bpf, link)).toBe(0);
    detach(bpf, link);
    for (const fd of [link, program, other]) bpf.closeFd(fd);
    await Promise.all([server.close(), client.close()]);
  });

  test('what is pinned outlives its descriptor, and is found again by its path', () => {
    const pins = new PinDirectory(directory, 'relay.a');
    pins.make();
    const spec = { name: 'kept', type: BPF_MAP_TYPE_ARRAY, keySize: 4, valueSize: 4, maxEntries: 3 };
    const map = BpfMap.create(bpf, spec);
    map.updateAt(2, Uint8Array.of(1, 2, 3, 4));
    bpf.pin(map.fd, pins.mapPath('kept'));
    map.close();

    const fd = bpf.open(pins.mapPath('kept'))!;
    expect(isMapLike(bpf, fd, spec)).toBe(true);
    expect(isMapLike(bpf, fd, { ...spec, maxEntries: 4 })).toBe(false);
    const again = new BpfMap(bpf, spec, fd);
    const value = new Uint8Array(4);
    again.lookupAt(2, value);
    expect([...value]).toEqual([1, 2, 3, 4]);
    again.close();
    expect(PinDirectory.names(directory)).toEqual(['relay.a']);
    pins.remove();
    expect(bpf.open(pins.mapPath('kept'))).toBeUndefined();
    expect(PinDirectory.names(directory)).toEqual([]);
  });

  test('a pinned link stays attached without its process, and goes with its pin', () => {
    const pins = new PinDirectory(directory, 'relay-b');
    pins.make();
    const program = bpf.loadProgram({ name: 'pass', instructions: PASS });
    const path = pins.linkPath('eth0.100-egress');
    const link = attach(bpf, program, { interface: 'lo', hook: 'egress' });
    bpf.pin(link, path);
    bpf.closeFd(link);
    bpf.closeFd(program);
    const found = bpf.open(path)!;
    expect(attachedTo(bpf, found)).toBe(interfaceIndex(libc, 'lo'));
    bpf.closeFd(found);
    expect(pins.links()).toEqual(['eth0.100-egress']);
    pins.remove();
    expect(bpf.open(path)).toBeUndefined();
  });

  test('a link is at its hook of its interface, and at none of the same number in another network', ({
    skip,
  }) => {
    const program = bpf.loadProgram({ name: 'pass', instructions: PASS });
    const link = attach(bpf, program, { interface: 'lo', hook: 'ingress' });
    const ingress = { interface: 'lo', hook: 'ingress' } as const;
    expect(isAttachedTo(bpf, link, ingress)).toBe(true);
    expect(isAttachedTo(bpf, link, { interface: 'lo', hook: 'egress' })).toBe(false);
    expect(isAttachedTo(bpf, link, { interface: 'nosuch0', hook: 'ingress' })).toBe(false);
    const here = interfaceIndex(libc, 'lo');
    // The last case of this file: there is no way back.
    const why = enterOwnNetwork([]);
    if (why === undefined) {
      expect(interfaceIndex(libc, 'lo')).toBe(here);
      expect(isAttachedTo(bpf, link, ingress)).toBe(false);
    }
    for (const fd of [link, program]) bpf.closeFd(fd);
    if (why !== undefined) skip(why);
  });
}
